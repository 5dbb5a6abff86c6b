"""Models that are named wrongly: refused at once, in a line that says where was looked."""

from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError

from vagen.policy import policy
from vagen.policy.policy import ModelError, check_path, load


def answer(kind: type[HfHubHTTPError]) -> HfHubHTTPError:
    return kind("no", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["a/b/c", "./mine", "../mine", "/mine", "~/mine", "outputs/mine", "a b", "mine/", ""])
def test_what_cannot_be_an_id_is_not_looked_for_on_the_hub(monkeypatch, path):
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: pytest.fail("the Hub was asked"))
    with pytest.raises(ModelError, match="no model folder"):
        load(path)


@pytest.mark.parametrize("path", ["mine", "me/mine", "Qwen/Qwen2.5-VL-3B-Instruct"])
def test_ids_pass_the_check_that_asks_nobody(path):
    check_path(path)


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (answer(RepositoryNotFoundError), "no model of this id on the Hub"),
        (HTTPError("Name or service not known"), "cannot be asked .*: Name or service not known"),
        (ConnectionError("offline mode is enabled\nand more"), "cannot be asked .*: offline mode is enabled$"),
    ],
)
def test_an_id_that_is_neither_here_nor_on_the_hub_is_refused_after_one_question(monkeypatch, error, complaint):
    asked = []

    def model_info(_, id, timeout):
        asked.append((id, timeout))
        raise error

    monkeypatch.setattr(HfApi, "model_info", model_info)
    monkeypatch.setattr(
        policy.AutoModelForImageTextToText,
        "from_pretrained",
        lambda *_, **__: pytest.fail("it was loaded all the same"),
    )
    with pytest.raises(ModelError, match=f"no folder 'no-such-model' here.*{complaint}"):
        load("no-such-model")
    assert asked == [("no-such-model", policy.HUB_SECONDS)]


def test_a_hub_that_answers_nothing_useful_leaves_the_word_to_the_loader(monkeypatch):
    def model_info(*_, **__):
        raise answer(HfHubHTTPError)

    def from_pretrained(*_, **__):
        raise OSError("the loader's word")

    monkeypatch.setattr(HfApi, "model_info", model_info)
    monkeypatch.setattr(policy.AutoModelForImageTextToText, "from_pretrained", from_pretrained)
    with pytest.raises(ModelError, match="the loader's word"):
        load("no-such-model")
