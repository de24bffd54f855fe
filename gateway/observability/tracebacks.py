"""The tracebacks of errors that are handled: they hold memory for longer than the error is needed."""


def drop_tracebacks(error: BaseException) -> None:
    """Drop the tracebacks of an error and of its causes, which nobody will read.

    A traceback holds its frames, those that called them, and their variables. If a variable holds the error,
    that is a reference cycle, which keeps all of this in memory until the garbage collector runs.
    """
    one: BaseException | None = error
    while one is not None:
        one.__traceback__ = None
        one = one.__cause__ or one.__context__
