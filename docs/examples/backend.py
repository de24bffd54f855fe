"""A backend with a bell on its page, on http://127.0.0.1:8080, or another PORT.

Needs GATEWAY_URL and GATEWAY_KEY.
"""

import os
import re
from urllib.parse import quote

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import HTMLResponse


def setting(name: str, pattern: str, example: str, default: str = "") -> str:
    """Return an environment variable. If it is missing or malformed, end the program without showing it."""
    value = os.environ.get(name, default).strip()
    if not re.fullmatch(pattern, value):
        raise SystemExit(f"{name}: set it to {example}")
    return value


URL = setting("GATEWAY_URL", r"https?://[\w\[][!-~]*", "a URL such as http://127.0.0.1:8000").rstrip("/")
KEY = setting("GATEWAY_KEY", r"[!-~]+", "the API key of a service, ngk_…")
PORT = int(setting("PORT", r"\d{1,5}", "a port such as 8080", "8080"))
PAGE = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Shop</title>
<link rel="icon" href="data:,">
<h1>Shop</h1><notification-bell></notification-bell><button id="order">Order</button> <output></output>
<script type="module">
  document.querySelector('#order').onclick = async () => {{
    const answer = await fetch('/orders', {{ method: 'POST' }});
    document.querySelector('output').textContent = answer.ok ? 'Ordered.' : (await answer.json()).detail;
  }};
</script>
<script type="module">
  import {{ NotificationClient }} from '{URL}/sdk/components.js';
  const getToken = () => fetch('/token');
  const client = document.querySelector('notification-bell').client = new NotificationClient({{ getToken }});
  client.start();
</script>"""
app = FastAPI()
gateway = httpx.AsyncClient(base_url=URL, headers={"Authorization": f"Bearer {KEY}"}, timeout=5)


async def call(path: str, body: dict[str, object]) -> dict[str, object]:
    """Post to the gateway, and return its response. Raise a 502 with `code: detail` if it refuses."""
    try:
        response = await gateway.post(path, json=body)
    except httpx.TransportError as error:
        raise HTTPException(502, f"the gateway cannot be reached at {URL}") from error
    said = response.json() if "json" in response.headers.get("Content-Type", "") else None
    if not isinstance(said, dict) or (response.is_error and "code" not in said):
        raise HTTPException(502, f"HTTP {response.status_code} from {URL}: is there a gateway?")
    if response.is_error:
        raise HTTPException(502, "{code}: {detail}".format_map(said))
    return said


def user() -> str:
    """Return the id of the signed-in user: take it from your own session; raise a 401 if there is none."""
    return "ada"


@app.get("/")
def page() -> HTMLResponse:
    return HTMLResponse(PAGE)


@app.get("/token")
async def token(response: Response) -> dict[str, object]:
    response.headers["Cache-Control"] = "no-store"
    return await call(f"/v1/users/{quote(user(), safe='')}/tokens", {})


@app.post("/orders")
async def order() -> dict[str, object]:
    return await call("/v1/notifications", {"to": user(), "title": "Your order is on its way"})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT)
