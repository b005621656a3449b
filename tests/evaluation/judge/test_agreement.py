"""Human labels, and a judge's agreement with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from prosg.evaluation.judge.agreement import AgreementCounts, StepKey, cohens_kappa, count_agreement, read_labels


def test_cohens_kappa_is_the_textbooks() -> None:
    # p_o = .7, p_e = .5 * .6 + .5 * .4 = .5
    assert cohens_kappa(20, 5, 10, 15) == pytest.approx(0.4)
    assert cohens_kappa(45, 15, 25, 15) == pytest.approx(0.1304, abs=1e-4)
    assert cohens_kappa(5, 0, 0, 5) == 1
    assert cohens_kappa(0, 5, 5, 0) == -1
    assert cohens_kappa(5, 0, 0, 0) is None and cohens_kappa(0, 0, 0, 0) is None


def test_agreement_is_counted_by_step() -> None:
    verdicts = {StepKey("a", "plus", 1): True, StepKey("a", "plus", 2): False, StepKey("b", "plus", 1): None}
    labels = dict.fromkeys(verdicts, True)
    assert count_agreement(verdicts, labels) == AgreementCounts(1, 0, 1, 0, unparsed=1, not_judged=0)
    assert count_agreement(verdicts, {StepKey("a", "other", 3): True}).not_judged == 1
    with pytest.raises(ValueError, match=r"stage 3 of 'a'.* \[1, 2\]"):
        count_agreement(verdicts, {StepKey("a", "plus", 3): True})


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "a", "system": "s", "stage": 1}',
        '{"id": "a", "system": "s", "stage": true, "label": true}',
        '{"id": "a", "system": "s", "stage": 1, "label": 1}',
        '{"id": "a", "system": "s", "stage": 1, "label": true, "who": "me"}',
        "[1]",
    ],
)
def test_bad_labels_name_the_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "labels.jsonl"
    good = '{"id": "a", "system": "s", "stage": 2, "label": true}\n'
    file.write_text(good)
    assert read_labels(file) == {StepKey("a", "s", 2): True}
    file.write_text(good + line)
    with pytest.raises(ValueError, match="labels.jsonl:2: .*stage.*label"):
        read_labels(file)
    file.write_text(good + good)
    with pytest.raises(ValueError, match="labels.jsonl:2: .*second.*stage 2"):
        read_labels(file)
