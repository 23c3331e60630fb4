import jax
import pytest

from arada.errors import UserError
from arada.runs import workdir as workdirs
from arada.runs.identity import ranking_identity, run_identity, source_run
from arada.runs.workdir import Workdir
from arada.runtime import files
from configs import digits


@pytest.fixture
def workdir(tmp_path):
    return Workdir(tmp_path)


def config_of(presets="", **overrides):
    config = digits.get_config(presets)
    config.update_from_flattened_dict(overrides)
    return config


def identity_of(presets="", num_devices=2, **overrides):
    return run_identity(config_of(presets, **overrides), 0, num_devices)


def another(value):
    """A value of the same type that is not the same."""
    by_type = {bool: lambda x: not x, str: lambda x: x + "x", tuple: lambda x: x[:-1] if x else (1,)}
    return by_type.get(type(value), lambda x: x + 1)(value)


def test_a_relative_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = tmp_path.resolve() / "there"
    workdir = Workdir("there")
    assert str(workdir.path) == str(there)
    assert str(workdir.run("adals", 3)) == str(there / "runs" / "adals" / "seed_3")
    assert str(workdir.ranking("vanilla/seed_0")) == str(there / "robustness" / "vanilla" / "seed_0")
    assert str(workdir.ranking("elsewhere")) == str(tmp_path.resolve() / "elsewhere")


def test_a_bucket_stays_a_bucket():
    workdir = Workdir("gs://b/c")
    assert str(workdir.path) == "gs://b/c"
    assert str(workdir.run("adals", 3)) == "gs://b/c/runs/adals/seed_3"
    assert str(workdir.ranking("gs://other/ranks")) == "gs://other/ranks"


@pytest.mark.parametrize(
    ("source", "run"),
    [
        ("vanilla/seed_0", ("vanilla", 0)),
        ("my-run_2+x.y/seed_12", ("my-run_2+x.y", 12)),
        ("vanilla", None),
        ("vanilla/seed_", None),
        ("vanilla/seed_-1", None),
        ("vanilla/seed_0/", None),
        ("/vanilla/seed_0", None),
        ("gs://b/vanilla/seed_0", None),
        ("two words/seed_0", None),
        ("vanilla/seed_0\n", None),
        ("", None),
    ],
)
def test_a_source_is_a_run_or_a_folder(source, run):
    assert source_run(source) == run


def test_runs_are_those_that_have_begun_by_name_and_number(workdir):
    begun = ["vanilla/seed_10", "vanilla/seed_2", "adals/seed_0"]
    foreign = ["vanilla/notes", "vanilla/seed_x", "vanilla/seed_2/old", "two words/seed_0", "seed_4"]
    for name in begun + foreign:
        files.write_json(workdir.path / "runs" / name / "config.json", {})
    (workdir.path / "runs" / "vanilla" / "seed_5").mkdir()
    (workdir.path / "runs" / "README").write_text("")
    assert workdir.runs() == [("adals", 0), ("vanilla", 2), ("vanilla", 10)]


def test_an_empty_workdir_has_no_runs(workdir):
    assert workdir.runs() == []


def test_create_leaves_nothing_but_the_folder(tmp_path):
    Workdir(tmp_path / "a" / "b").create()
    Workdir(tmp_path / "a" / "b").create()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_claim_keeps_what_made_it_and_refuses_another(workdir):
    path = workdir.run("adals", 0)
    config = config_of("adals", **{"training.epochs": 6, "soft_labels.alpha": ((0, 0.25),)})
    identity = run_identity(config, 0, 2)
    workdirs.claim(path, identity, config)
    stored = workdirs.stored(path)
    assert stored["identity"] == identity
    assert stored["config"]["run"] == config.run.to_dict()
    assert set(stored["made_with"]) == {"commit", "hardware", "versions", "precision"}
    assert stored["made_with"]["hardware"] == f"cpu x {jax.device_count()}"
    assert "jax" in stored["made_with"]["versions"]

    before = (path / "config.json").read_text()
    workdirs.claim(path, run_identity(config, 0, 4), config_of("adals", **{"run.mapping": "shard_map"}))
    other = config_of("adals", **{"training.epochs": 7, "soft_labels.alpha": ((0, 0.5),)})
    with pytest.raises(UserError) as error:
        workdirs.claim(path, run_identity(other, 1, 2), other)
    assert str(error.value) == (
        f"{path} was made with another config: seed was 0 and is now 1; "
        "soft_labels.alpha was [[0, 0.25]] and is now [[0, 0.5]]; training.epochs was 6 and is now 7. "
        "Set them back, use another --workdir or --config.name, or delete the folder"
    )
    assert (path / "config.json").read_text() == before


def test_a_field_that_one_side_lacks_differs(workdir):
    workdirs.claim(workdir.path, {"a": {"b": 1, "c": 2}}, config_of())
    with pytest.raises(UserError, match=r"a\.c was 2 and is now absent; a\.d was absent and is now 3"):
        workdirs.claim(workdir.path, {"a": {"b": 1, "d": 3}}, config_of())


def test_alpha_is_of_no_consequence_unless_the_method_is_adaptive():
    alpha = {"soft_labels.alpha": ((0, 0.7),)}
    assert identity_of("label_smoothing", **alpha) == identity_of("label_smoothing")
    assert identity_of("adals", **alpha) != identity_of("adals")


def test_the_ranking_is_of_no_consequence_to_one_subset():
    for ranking in ({"ranking.source": "vanilla/seed_1"}, {"ranking.attack": "cw"}, {"ranking.fmn.steps": 9}):
        assert identity_of("adals", **ranking) == identity_of("adals")
        assert identity_of("ar_adals", **ranking) != identity_of("ar_adals")
    # Settings of an attack that is not used, and the subsets of the figures.
    assert identity_of("ar_adals", **{"ranking.cw.max_iterations": 9, "ranking.num_subsets": 5}) == identity_of(
        "ar_adals"
    )


def test_fields_of_a_method_are_of_consequence_where_it_is_used():
    for name in ("mixup", "ccat", "focal", "adafocal", "dual_focal", "mbls", "acls"):
        assert identity_of(name)["method"]["name"] == name
        for field, value in config_of().method[name].items():
            changed = {f"method.{name}.{field}": another(value)}
            assert identity_of(name, **changed) != identity_of(name), field
            assert identity_of("adals", **changed) == identity_of("adals")
    # Runs of cross-entropy are older than the section.
    assert "method" not in identity_of("ar_adals")


@pytest.mark.parametrize("section", ["run", "evaluation"])
def test_what_comes_after_training_is_of_no_consequence(section):
    config = config_of("ar_adals")
    identity, ranking = run_identity(config, 0, 2), ranking_identity(config)
    for field, value in config[section].items():
        config[section][field] = another(value)
        assert config[section][field] != value
    assert run_identity(config, 0, 2) == identity
    assert ranking_identity(config) == ranking


@pytest.mark.parametrize("section", ["data", "model", "optimizer", "training"])
def test_every_field_of_training_is_of_consequence(section):
    identity = identity_of("ar_adals")
    for field, value in config_of("ar_adals")[section].items():
        assert identity_of("ar_adals", **{f"{section}.{field}": another(value)}) != identity, field


def test_the_seed_is_of_consequence():
    assert run_identity(config_of(), 0, 2) != run_identity(config_of(), 1, 2)


def test_devices_count_only_where_each_has_statistics_of_its_own():
    assert identity_of("adals", num_devices=1) == identity_of("adals", num_devices=4)
    per_device = {"model.batch_norm": "per_device"}
    assert identity_of("adals", num_devices=1, **per_device) != identity_of("adals", num_devices=4, **per_device)


def test_a_workdir_holds_one_network_and_data_set(workdir):
    config = config_of("adals")
    workdirs.check_shared(workdir, config)
    workdirs.claim(workdir.run("adals", 1), run_identity(config, 1, 2), config)
    workdirs.check_shared(workdir, config_of("vanilla", **{"training.epochs": 3}))
    with pytest.raises(UserError) as error:
        workdirs.check_shared(workdir, config_of("vanilla", **{"model.depth": 20, "data.noise": 0.5}))
    assert str(error.value) == (
        f"{workdir.path} holds another experiment (adals/seed_1): data.noise was 0.4 and is now 0.5; "
        "model.depth was 11 and is now 20. Use another --workdir"
    )


def test_all_seeds_of_a_name_are_one_method(workdir):
    config = config_of("adals")
    for name in ("adals", "adals/alpha_0.1"):
        workdirs.claim(workdir.run(name, 1), run_identity(config, 1, 2), config)
    workdirs.check_seeds_alike(workdir, config)
    for name in ("adals", "adals/alpha_0.1"):
        other = config_of("adals", **{"training.epochs": 3, "name": name})
        expected = rf"runs/{name}/seed_1 was made with another config: training.epochs was 40 and is now 3\. Set"
        with pytest.raises(UserError, match=expected):
            workdirs.check_seeds_alike(workdir, other)
        other.name = "adals_short"
        workdirs.check_seeds_alike(workdir, other)


def test_devices_may_differ_from_seed_to_seed(workdir):
    config = config_of("adals", **{"model.batch_norm": "per_device"})
    workdirs.claim(workdir.run("adals", 1), run_identity(config, 1, 4), config)
    workdirs.check_seeds_alike(workdir, config)


def test_ranks_of_another_attack_are_not_taken_for_those_of_the_config(workdir):
    config = config_of("ar_adals")
    folder = workdir.ranking("vanilla/seed_0")
    workdirs.check_ranked_as(folder, config, "vanilla/seed_0")
    workdirs.claim(folder, ranking_identity(config, "vanilla/seed_0") | {"source_run": {"weights": 1}}, config)
    workdirs.check_ranked_as(folder, config, "vanilla/seed_0")
    other = config_of("ar_adals", **{"ranking.fmn.steps": 9})
    differs = r"ranking.fmn.steps was 10 and is now 9\. .* --config.ranking.folder and run --stage=rank, or"
    with pytest.raises(UserError, match=differs):
        workdirs.check_ranked_as(folder, other, "vanilla/seed_0")
    with pytest.raises(
        UserError, match=r"source_run.weights was 1 and is now 2\. .* or --config.ranking.folder with another"
    ):
        workdirs.claim(folder, ranking_identity(config, "vanilla/seed_0") | {"source_run": {"weights": 2}}, config)
    # A folder of somebody's own is used as it is.
    workdirs.check_ranked_as(folder, other, str(folder))


def test_what_other_weights_have_left_is_deleted(workdir):
    folder = workdir.predictions("adals", 0)
    workdirs.claim_again(folder, {"weights": 1}, config_of())
    (folder / "test.npz").write_text("of the first")
    workdirs.claim_again(folder, {"weights": 1}, config_of())
    assert (folder / "test.npz").exists()
    workdirs.claim_again(folder, {"weights": 2}, config_of())
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert workdirs.stored(folder)["identity"] == {"weights": 2}


def test_a_stored_config_makes_the_same_run(workdir):
    config = config_of("ar_adals,testing")
    identity = run_identity(config, 0, 2)
    workdirs.claim(workdir.path, identity, config)
    assert run_identity(workdirs.stored_config(workdir.path), 0, 2) == identity


def test_a_folder_without_a_config_holds_no_run(workdir):
    with pytest.raises(UserError, match=f"{workdir.path} is not a run .it has no config.json.; name a folder"):
        workdirs.stored_config(workdir.path)


def test_the_data_of_a_workdir_stay_the_same(workdir):
    digests = {"train": "a", "validation": "b", "test": "c"}
    # Nothing hangs on data that no run has used.
    workdirs.claim_data(workdir, digests | {"train": "x"})
    workdirs.claim_data(workdir, digests)
    config = config_of("adals")
    # A point of a sweep is a run too.
    workdirs.claim(workdir.run("adals/alpha_0.1", 1), run_identity(config, 1, 2), config)
    workdirs.claim_data(workdir, digests)
    with pytest.raises(
        UserError, match=rf"{workdir.path} was started with other images or labels in train, test: the data"
    ):
        workdirs.claim_data(workdir, {"train": "x", "validation": "b", "test": "y"})
    assert files.read_json(workdir.data) == {"sha256": digests}


def test_a_workdir_that_could_not_be_read_again_is_refused_before_it_is_made(tmp_path):
    with pytest.raises(UserError, match=r"--workdir=.*exp\[1\] has \[ in its name"):
        Workdir(tmp_path / "exp[1]").create()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["two words", "größe", "exp[1]"])
def test_runs_are_found_in_a_folder_of_any_name(tmp_path, name):
    """A folder may be renamed when all is done."""
    workdir = Workdir(tmp_path / name)
    for run in ("vanilla", "adals"):
        workdirs.claim(workdir.run(run, 1), identity_of(), config_of())
    assert workdir.runs() == [("adals", 1), ("vanilla", 1)]
    assert list(workdir.identities("adals")) == ["adals/seed_1"]


def test_looking_claims_nothing(workdir):
    path = workdir.run("adals", 0)
    workdirs.check_claim(path, identity_of())
    assert not path.exists()
    workdirs.claim(path, identity_of(), config_of())
    workdirs.check_claim(path, identity_of())
    with pytest.raises(UserError, match=r"was made with another config: data.num_classes was 10 and is now 12"):
        workdirs.check_claim(path, identity_of(**{"data.num_classes": 12}))
