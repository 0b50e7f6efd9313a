"""Tests of the names of run folders."""

import unicodedata

from moleflow.runs.naming import display_name, folder_name, override_key, run_label


def test_only_overrides_that_affect_results_are_named() -> None:
    overrides = ["trainer=cpu", "dataset.root=/a/b", "seed=1"]
    assert run_label(overrides) == "default"
    assert run_label(["loss.tail_weight=0.5", *overrides, "epochs=3"]) == "epochs=3,loss.tail_weight=0.5"


def test_swept_keys_are_always_named_except_the_seed() -> None:
    overrides = ["trainer=cpu", "dataset.root=/a/b", "seed=1"]
    assert run_label(overrides, ["trainer"]) == "trainer=cpu"
    assert run_label(overrides, ["seed"]) == "default"  # its subfolder is that of a run without a sweep
    assert run_label(["dataset.root=/a/b"], ["dataset.root"]) != run_label(["dataset.root=/a_b"], ["dataset.root"])


def test_experiment_is_named_once() -> None:
    assert run_label(["+experiment=tailw0.8"]) == "default"  # the parent folder is tailw0.8
    assert run_label(["+experiment=tailw0.8", "name=mine"]) == "experiment=tailw0.8,name=mine"
    assert run_label(["+sweep=tail_weight", "loss.tail_weight=0.5"]) == "loss.tail_weight=0.5"


def test_long_names_are_shortened_and_distinct() -> None:
    long = [f"model.key{i}=1" for i in range(30)]
    assert len(folder_name(long)) < 130
    assert folder_name([*long, "a=1"]) != folder_name([*long, "a=2"])


def test_unicode_forms_of_a_name_have_one_folder() -> None:
    names = [f'dataset.categories=["{unicodedata.normalize(form, "Prüfling")}"]' for form in ("NFC", "NFD")]
    assert names[0] != names[1]
    assert run_label(names[:1]) == run_label(names[1:])


def test_key_of_an_override() -> None:
    assert override_key("+model.adapter=none") == "model.adapter"
    assert override_key("+group@package=x") == "group"


def test_display_name_has_only_the_overrides_that_differ() -> None:
    overrides = ["+experiment=best", "dataset.root=/data", "trainer=cpu", "loss.tail_weight=0.5", "seed=2"]
    assert display_name("best", overrides) == "loss.tail_weight=0.5 seed=2"
    assert display_name("best", overrides, ["seed"]) == "seed=2"
    assert display_name("best", overrides[:3]) == "best"
