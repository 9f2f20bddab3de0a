"""What is wrong with a tag's pattern or with its report, told with the place in the file."""

import pytest

from tests.loaded_config import Load, Problems

HEAD = "sources:\n  - name: a\n    protocol: opcua\n    endpoint: opc.tcp://h\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("report: {deadband: -1}", "5:24: sources.0.report.deadband: should be greater than or equal to 0, not `-1`"),
        (
            "report: {min_intervall: 4}",
            "5:14: sources.0.report.min_intervall: there is no key `min_intervall`; did you mean `min_interval`?",
        ),
        (
            "report: {min_interval: 5x}",
            "5:28: sources.0.report.min_interval: `5x` is not a duration; write a number with a unit: 250ms, 5s, 10m, 24h",
        ),
        ("report: al", "5:13: sources.0.report: should be 'all', not `al`; did you mean `all`?"),
        (
            "tags: [{match: a, report: {swinging_door: 1}}]",
            "5:31: sources.0.tags.0.report: swinging_door needs max_interval: a steady slope is not reported until it ends",
        ),
        (
            "tags: [{match: 're:('}]",
            "5:20: sources.0.tags.0.match: `re:(` is no regular expression: missing ), unterminated subpattern at character 1",
        ),
        (
            "tags: [{match: '{line}/{x}', tag_name: '{y}'}]",
            "5:12: sources.0.tags.0: tag_name: `{y}` is no part of the pattern `{line}/{x}`; there are {line}, {x}",
        ),
    ],
)
def test_a_problem_has_its_place(problems: Problems, line: str, said: str) -> None:
    assert problems(f"{HEAD}    {line}\n") == [f"gateway.yaml:{said}"]


def test_a_rule_may_be_switched_off_for_a_tag(loaded: Load) -> None:
    text = f"{HEAD}    report: {{deadband: 1}}\n    tags: [{{match: a, report: all}}, {{match: b, report: {{}}}}]\n"
    (source,) = loaded(text).sources
    first, second = (mapping.report for mapping in source.tags)
    assert first == "all"
    assert second not in ("all", None)
    assert source.report != second
