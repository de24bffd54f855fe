// Shows the OpenAPI of the gateway. Nothing is kept: what is typed in at "Authorize" is gone with the page.

SwaggerUIBundle({
  url: new URL('../openapi.json', document.currentScript.src).href,
  dom_id: '#reference',
  presets: [SwaggerUIBundle.presets.apis],
  layout: 'BaseLayout',
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null, // No one else is asked about the document.
});
