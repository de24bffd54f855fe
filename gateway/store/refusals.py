"""The errors of a change that the state of a notification or an item does not allow.

Only the store raises them. `gateway.errors` has the errors that several packages raise.
"""

from gateway.errors import GatewayError, NotFound


class AlreadyDelivered(GatewayError):
    """A time of delivery was set for a notification that is delivered."""

    status = 409
    code = "already_delivered"
    title = "The notification is delivered already"
    advice = "its time of delivery cannot change"


class NotificationEnded(GatewayError):
    """An edit came for a notification that nobody has any more."""

    status = 409
    code = "notification_ended"
    title = "The notification has ended"
    advice = "post a new one"


class UnknownAction(NotFound):
    """The item has no action with this id."""

    code = "unknown_action"
    title = "The item has no such action"


class AlreadyAnswered(GatewayError):
    """The item has an answer already, from this or another client of the user."""

    status = 409
    code = "already_answered"
    title = "The item has been answered already"
    advice = "read the item to see its answer"
