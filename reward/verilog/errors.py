"""Why a response cannot be judged as a design."""


class Rejected(ValueError):
    """The text is no design we simulate; the message is the reason, for the verdict's detail."""
