"""What several contract tests share."""

from __future__ import annotations

import pytest
import trustme


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Signs the certificates of our test servers."""
    return trustme.CA()
