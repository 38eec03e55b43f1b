"""How metrics name the extractor in whose features they were measured."""


def called(extractor: str, standardised: bool) -> str:
    """An extractor as the names of metrics say it: features over their deviation are other features (ADR 28)."""
    return f"{extractor}-standardised" if standardised else extractor
