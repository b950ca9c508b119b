"""Two kinds of failure: try again, or a person must change something. Decided at the edge, nothing in between."""


class OperatorError(Exception):
    """The text is a sentence for the owner of the service: it ends up in condition Degraded."""

    reason = "Failed"


class NotReady(OperatorError):
    """Try again: the API server is away, busy, or somebody else wrote at the same time."""

    reason = "TryingAgain"


class Unreachable(NotReady):
    """Nobody listens at the API server's address: whatever else would be asked now fails as well."""


class ServiceGone(Exception):
    """The LLMService itself was deleted: not a failure, the end of its keeper."""


class Exists(NotReady):
    """Somebody made an object of this name already."""


class Expired(NotReady):
    """The version from which to watch is too old: list again."""


class Misconfigured(OperatorError):
    """A person must change something; trying again alone does not help."""

    reason = "Misconfigured"


class Gone(OperatorError):
    """The object or its whole kind does not exist."""

    reason = "Gone"
