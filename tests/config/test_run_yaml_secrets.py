"""A secret of a run YAML is in no text that is shown, however its key is written."""

import pytest

from orchestrator.config.run_yaml_secrets import without_secrets

SECRET = "hf_9aQ.x+7"


@pytest.mark.parametrize(
    "text",
    [
        f"hub_token: {SECRET}\n",
        f'"hub_token": {SECRET}\n',
        f"'hub_token' : {SECRET}  # mine\n",
        f"a: {{hub_token: {SECRET}, b: 1}}\n",
        f'{{"hub_token":"{SECRET}"}}\n',
        f"hub_token:\n  {SECRET}\nb: 1\n",
        f"hub_token:  # below\n\n  '{SECRET}'\n",
        f"? hub_token\n: {SECRET}\n",
        f"a:\n- b: 1\n  api_key: [{SECRET}, {{c: {SECRET}}}]\n",
        f"hub_token: |\n  {SECRET}\n  more\nb: 1\n",
        f"hub_token: >-\n  {SECRET}\n",
        f"mine: &t {SECRET}\nhub_token: *t\n",
        f"hub_token: &t {SECRET}\nb: *t\n",
        f"hub_token: {SECRET}\nurl: https://me:{SECRET}@hub/x\n",
        f"# hub_token: {SECRET}\na: 1\n",
        f"\u00e4: \U0001f600\r\nhub_token:\r\n  {SECRET}\r\nb: 1\r\n",
        f"hub_token: {SECRET}\n[\n",
    ],
)
def test_it_is_hidden_and_all_else_is_shown(text: str) -> None:
    (shown,) = without_secrets(text)
    assert SECRET not in shown and "***" in shown
    for word in ("hub_token", "api_key", "b: 1", "https://me:"):
        assert (word in text) == (word in shown)


def test_escapes_and_lines_hide_nothing_from_it() -> None:
    (shown,) = without_secrets(
        'hub_token: "ab\\x63def"\npassword: one two\n  three\nlog: abcdef, one two three\n'
    )
    assert shown == "hub_token: ***\npassword: ***\nlog: ***, ***\n"


def test_what_one_text_calls_a_secret_is_hidden_in_the_other() -> None:
    assert without_secrets("a: wxyz\n", "hub_token: wxyz\n") == ["a: ***\n", "hub_token: ***\n"]


def test_short_values_are_hidden_at_their_key_alone() -> None:
    text = "hub_token: 1\nuse_token: True\npassword: ''\nsecret: abc\nn: 1\nmine: True, abc, 11\ntokens: 7\n"
    hidden = "hub_token: ***\nuse_token: ***\npassword: ***\nsecret: ***\n"
    assert without_secrets(text) == [f"{hidden}n: 1\nmine: True, abc, 11\ntokens: 7\n"]


def test_texts_without_any_stay_byte_for_byte() -> None:
    texts = ["", "# x\n", "a: [1, 2]  # b\r\nc: |\n  d\n\n", "no: [yaml"]
    assert without_secrets(*texts) == texts
