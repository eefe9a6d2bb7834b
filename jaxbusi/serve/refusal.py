"""What a request is refused with."""


class Refusal(Exception):  # noqa: N818 - an answer, not an accident
    """A request that is not answered.

    Attributes:
      status: of HTTP.
      reason: what is wrong and what to do, one line.
      retry_after: seconds after which the same request may be answered; None where never.
    """

    def __init__(self, status: int, reason: str, retry_after: int | None = None):
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
