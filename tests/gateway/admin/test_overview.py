"""What the first worker says of all."""

import json
from pathlib import Path

from gateway import observe
from gateway.admin.overview import METRICS, NOT_READY, Overview
from gateway.peers import ALONE, Peers, Worker


async def test_alone_it_speaks_for_itself() -> None:
    reasons = ["the state was not read yet"]
    overview = Overview(Peers(ALONE), lambda: reasons)
    assert await overview.waiting_for() == reasons
    assert await overview.metrics_page() == observe.metrics_page()


async def test_all_workers_have_to_be_ready(tmp_path: Path) -> None:
    reasons: list[str] = ["listener sasl is not bound"]
    second = Peers(Worker(1, 3, tmp_path))
    await second.serve(Overview(second, lambda: reasons).answers())
    overview = Overview(Peers(Worker(0, 3, tmp_path)), list)
    assert await overview.waiting_for() == [
        "worker 1: listener sasl is not bound",
        "worker 2 does not answer",
    ]
    third = Peers(Worker(2, 3, tmp_path))
    await third.serve(Overview(third, list).answers())
    reasons.clear()
    assert await overview.waiting_for() == []
    await second.close()
    assert await overview.waiting_for() == ["worker 1 does not answer"]
    await third.close()


async def test_metrics_are_of_the_workers_that_answer(tmp_path: Path) -> None:
    second = Peers(Worker(1, 3, tmp_path))
    await second.serve(Overview(second, list).answers())
    observe.fillers_presented.inc(0)
    page = (await Overview(Peers(Worker(0, 3, tmp_path)), list).metrics_page()).decode()
    await second.close()
    assert 'causeway_fillers_presented_total{worker="1"}' in page
    assert 'causeway_worker_up{worker="2"} 0.0' in page


async def test_a_worker_answers_both_questions() -> None:
    answers = Overview(Peers(ALONE), lambda: ["why"]).answers()
    assert json.loads(await answers[NOT_READY]()) == ["why"]
    assert await answers[METRICS]() == observe.metrics_page().decode()
