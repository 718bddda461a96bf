"""Answers that the proxy makes up are what the client reads."""

import pytest

from tests.chaos.proxy import ADD_OFFSETS_TO_TXN, END_TXN, _denied, _refusal, _response


@pytest.mark.parametrize("api", [END_TXN, ADD_OFFSETS_TO_TXN])
@pytest.mark.parametrize("version", [1, 3])
def test_a_made_up_error_is_read_as_one(api: int, version: int) -> None:
    refusal = _refusal(api, version, 7, 51)
    assert _response(api, version).decode(refusal, version=version, header=True).error_code == 51
    denied = _denied(refusal, api, version, 14)
    assert len(denied) == len(refusal)
    read = _response(api, version).decode(denied, version=version, header=True)
    assert (read.error_code, read.header.correlation_id) == (14, 7)
