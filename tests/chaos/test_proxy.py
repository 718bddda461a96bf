"""Answers that the proxy makes up are what the client reads."""

import pytest

from tests.chaos.proxy import ADD_OFFSETS_TO_TXN, END_TXN, PRODUCE, _denied, _refusal, _response


@pytest.mark.parametrize("api", [END_TXN, ADD_OFFSETS_TO_TXN])
@pytest.mark.parametrize("version", [1, 3])
def test_a_made_up_error_is_read_as_one(api: int, version: int) -> None:
    refusal = _refusal(api, version, 7, 51)
    assert _response(api, version).decode(refusal, version=version, header=True).error_code == 51
    denied = _denied(refusal, api, version, 14)
    assert len(denied) == len(refusal)
    read = _response(api, version).decode(denied, version=version, header=True)
    assert (read.error_code, read.header.correlation_id) == (14, 7)


@pytest.mark.parametrize("version", [8, 9])
def test_a_produce_that_was_carried_out_can_be_denied(version: int) -> None:
    kind = _response(PRODUCE, version)
    partitions = [
        kind.TopicProduceResponse.PartitionProduceResponse(index=index, error_code=0, base_offset=5) for index in (0, 3)
    ]
    topic = kind.TopicProduceResponse(name="verdicts", partition_responses=partitions)
    response = kind(version=version, responses=[topic], throttle_time_ms=0)
    response.with_header(correlation_id=7)
    denied = _denied(bytes(response.encode(header=True)), PRODUCE, version, 6)
    [read] = kind.decode(denied, version=version, header=True).responses
    assert [(found.index, found.error_code, found.base_offset) for found in read.partition_responses] == [
        (0, 6, 5),
        (3, 6, 5),
    ]
