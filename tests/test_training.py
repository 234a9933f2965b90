"""One fit: which epoch is kept, batches made ahead, and what becomes of a loss that is not a number."""

import copy
import math
import threading
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from feature_store.errors import LeakageError
from feature_store.read_ahead import read_ahead
from mice_model import protocol, training
from mice_model.data import FoldData, open_study
from mice_model.evaluation import TrainingCurve
from mice_model.protocol import Fit, Run, _fitted, finetune, pretrain
from mice_model.study import Study, TrainConfig
from mice_model.training import Predicted, TrainingError, fit, predict

STUDY = Study.model_validate(
    {
        "name": "tiny",
        "description": "one small network",
        "contracts": ["synthetic"],
        "split": "synthetic-3fold",
        "evaluate": ["amber"],
        "folds": [0],
        "features": {"modalities": ["slide", "omics", "clinical"], "patches_per_case": 9},
        "network": {"width": 8, "omics_hidden": [8], "overlapping_ranks": [2, 3], "top_k": 1, "expert_rank": 2},
    }
)
CONFIG = TrainConfig(epochs=3, batch_size=16)


@pytest.fixture(scope="module")
def run(published_home, tmp_path_factory):
    from feature_store.lake import Lake
    from feature_store.training_set import latest_snapshot

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the operations are small: on a busy machine two threads wait for each other
    with open_study(STUDY, published_home, latest_snapshot(Lake(published_home)), ("synthetic",)) as data:
        yield Run(data, tmp_path_factory.mktemp("model"))
    torch.set_num_threads(num_threads)


def new_model(run):
    torch.manual_seed(0)
    return run.network(run.prepare(0))


def fitted(run, config=CONFIG):
    model = new_model(run)
    curve = fit(model, run.prepare(0), run.data.training_rows(0), config, stage="pretrain", cancer_type="", fold=0, seed=0)
    return model, curve


def equal(state, other):
    return all(torch.equal(state[name], other[name]) for name in state)


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


@pytest.fixture
def made_ahead(monkeypatch):
    """Make batches on a CPU as for a GPU, in the background."""

    def on_device(made, device):
        with closing(read_ahead(made, 2)) as batches:
            yield from batches

    monkeypatch.setattr(training, "_on_device", on_device)


def test_too_few_inner_events_keep_the_last_epoch_and_say_so(run, caplog):
    model, curve = fitted(run)
    assert all(map(math.isnan, curve.inner_c_index)), "80 cases leave no stratum 5 inner events"
    assert curve.chosen_epoch == 3
    assert not equal(model.state_dict(), new_model(run).state_dict())
    assert "too few events" in caplog.text
    caplog.clear()
    fitted(run, TrainConfig(epochs=1, batch_size=16, epoch_selection="fixed"))
    assert not [record for record in caplog.records if record.name != "feature_store.progress"]  # which speaks after a while


@pytest.mark.parametrize("epochs", [1, 2, 9, 10])
def test_every_number_of_steps_has_a_learning_rate(run, epochs):
    """Torch's schedule with a warm-up of a tenth divides by zero at 9 steps."""
    rows = len(run.data.training_rows(0))
    _, curve = fitted(run, TrainConfig(epochs=epochs, batch_size=rows, epoch_selection="fixed"))
    assert len(curve.train_loss) == epochs
    assert np.isfinite(curve.train_loss).all()


@pytest.mark.parametrize(
    ("scores", "best"),
    [((math.nan, 0.6, math.nan), 2), ((0.5, math.nan, 0.7), 3), ((0.7, math.nan, 0.6), 1), ((0.6, 0.6, 0.5), 2)],
)
def test_the_best_defined_inner_score_wins(run, monkeypatch, scores, best):
    seen = []

    def score(model, *_):
        seen.append(copy.deepcopy(model.state_dict()))
        return scores[len(seen) - 1]

    monkeypatch.setattr(training, "_score", score)
    model, curve = fitted(run)
    assert curve.chosen_epoch == best
    assert equal(model.state_dict(), seen[best - 1])


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [((0.7, 0.6, 0.5, 0.69), 0), ((0.7, 0.6, 0.8, 0.69), 2), ((0.7, 0.6, 0.7, 0.5), 2), ((math.nan, 0.2, 0.1, 0.1), 1)],
    ids=["nothing is better", "better", "as good", "unknown"],
)
def test_the_start_is_kept_where_nothing_is_better_and_it_may_be(run, monkeypatch, scores, chosen):
    seen = []

    def score(model, *_):
        seen.append(copy.deepcopy(model.state_dict()))
        return scores[len(seen) - 1]

    monkeypatch.setattr(training, "_score", score)
    model, curve = fitted(run, CONFIG.model_copy(update={"may_keep_start": True}))
    assert equal(seen[0], new_model(run).state_dict())
    assert curve.chosen_epoch == chosen
    assert equal(model.state_dict(), seen[chosen])
    np.testing.assert_array_equal([curve.start_c_index, *curve.inner_c_index], scores)
    assert len(curve.train_loss) == 3
    assert np.isfinite(curve.train_loss).all()


def test_the_start_is_no_candidate_unless_it_may_be(run, monkeypatch):
    scores = iter((0.6, 0.5, 0.4))
    monkeypatch.setattr(training, "_score", lambda *_: next(scores))  # which is asked of three epochs alone
    _, curve = fitted(run)
    assert curve.chosen_epoch == 1
    assert math.isnan(curve.start_c_index)


def test_no_epoch_at_all_leaves_the_start(run):
    model, curve = fitted(run, TrainConfig(epochs=0, batch_size=16, epoch_selection="fixed"))
    assert equal(model.state_dict(), new_model(run).state_dict())
    assert (curve.train_loss, curve.inner_c_index, curve.chosen_epoch) == ((), (), 0)


def test_given_rows_choose_the_epoch_and_all_training_rows_are_trained_on(run, monkeypatch):
    """As the author protocol does: no inner part is taken from the training rows."""
    rows, held_out = run.data.training_rows(0), run.data.cohort_rows("amber", 0)[1]
    scores, judged, taken = iter((0.5, 0.7, 0.6)), [], []
    batch = FoldData.batch

    def score(model, fold_data, chosen_by):
        judged.append(chosen_by)
        return next(scores)

    def recorded(fold_data, chunk, rng):
        taken.append(chunk)
        return batch(fold_data, chunk, rng)

    monkeypatch.setattr(training, "_score", score)
    monkeypatch.setattr(FoldData, "batch", recorded)
    names = {"stage": "pretrain", "cancer_type": "", "fold": 0, "seed": 0}
    curve = fit(new_model(run), run.prepare(0), rows, CONFIG, **names, selection=held_out)
    assert curve.chosen_epoch == 2
    for chosen_by in judged:
        np.testing.assert_array_equal(chosen_by, held_out)
    np.testing.assert_array_equal(np.sort(np.concatenate(taken)), np.sort(np.tile(rows, 3)))


@pytest.mark.parametrize("selection", ["honest", "author"])
def test_held_out_cases_choose_an_epoch_under_the_author_protocol_alone(run, monkeypatch, tmp_path, selection):
    asked = []

    def recorded(model, fold_data, rows, config, *, stage, selection, **names):
        asked.append((stage, rows, selection))
        return TrainingCurve(stage, names["cancer_type"], names["fold"], names["seed"], (), (), 0)

    monkeypatch.setattr(protocol, "fit", recorded)
    changed = Run(replace(run.data, study=STUDY.model_copy(update={"selection": selection})), tmp_path)
    pretrain(changed, 0, 0)
    finetune(changed, 0, 0)
    ours, held_out = run.data.cohort_rows("amber", 0)
    assert [stage for stage, *_ in asked] == ["pretrain", "finetune"]
    for (_, rows, chosen_by), expected in zip(asked, (run.data.training_rows(0), ours), strict=True):
        np.testing.assert_array_equal(rows, expected)
        assert not set(rows) & set(held_out)
        if selection == "author":
            np.testing.assert_array_equal(chosen_by, held_out)
        else:
            assert chosen_by is None


def test_the_score_is_the_concordance_within_cancer_types_weighted_by_events(run, monkeypatch):
    data = run.data
    rows = np.flatnonzero(data.cancer_index >= 0)
    risk = -data.training_set.duration_days + 1e6 * data.cancer_index  # perfect within, and wrong between types
    monkeypatch.setattr(training, "predict", lambda model, fold_data, rows: Predicted(risk[rows], risk, risk))
    assert training._score(None, run.prepare(0), rows) == 1
    first = data.cancer_index == 0
    flipped = np.where(first, -risk, risk)
    monkeypatch.setattr(training, "predict", lambda model, fold_data, rows: Predicted(flipped[rows], risk, risk))
    events = np.bincount(data.cancer_index[rows], weights=data.training_set.event_observed[rows])
    events = np.where(events >= 5, events, 0)
    assert events[0] > 0
    assert training._score(None, run.prepare(0), rows) == pytest.approx(1 - events[0] / events.sum())
    assert math.isnan(training._score(None, run.prepare(0), rows[:3]))
    assert math.isnan(training._score(None, run.prepare(0), rows[:0]))


def test_batches_made_ahead_give_the_same_network(run, request):
    inline, curve = fitted(run)
    inline_risk = predict(inline, run.prepare(0), run.data.training_rows(0), batch_size=16).risk
    request.getfixturevalue("made_ahead")
    ahead, same_curve = fitted(run)
    assert same_curve.train_loss == curve.train_loss
    assert equal(inline.state_dict(), ahead.state_dict())
    np.testing.assert_array_equal(predict(ahead, run.prepare(0), run.data.training_rows(0), batch_size=16).risk, inline_risk)
    assert not threads()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_for_a_gpu_are_those_for_a_cpu(run):
    rows, fold_data = run.data.training_rows(0), run.prepare(0)
    chunks = np.array_split(rows, 4)
    rng = np.random.default_rng(0)
    expected = [fold_data.batch(chunk, rng) for chunk in chunks]
    rng = np.random.default_rng(0)
    found = list(training._on_device((fold_data.batch(chunk, rng) for chunk in chunks), torch.device("cuda")))
    for one, other in zip(found, expected, strict=True):
        assert one.patches_Pd.is_cuda
        assert torch.equal(one.patches_Pd.cpu(), other.patches_Pd)
        assert torch.equal(one.vectors["omics"].cpu(), other.vectors["omics"])


def test_a_loss_that_is_not_a_number_names_the_cases_and_ends_the_thread(run, made_ahead, monkeypatch):
    fold_data, calls = run.prepare(0), []

    def spoilt(output, batch, alpha, **weights):
        calls.append(batch.case_ids)
        return training_loss(output, batch, alpha if len(calls) < 2 else math.nan, **weights)

    training_loss = training.total_loss
    monkeypatch.setattr(training, "total_loss", spoilt)
    with pytest.raises(TrainingError, match=r"pretrain all fold 0 seed 0, epoch 1: loss is nan") as error:
        fitted(run)
    assert calls[1][0] in str(error.value)
    assert not threads()
    assert fold_data is run.prepare(0)


def test_items_are_made_in_order_and_not_further_ahead_than_asked():
    made = []

    def items():
        for item in range(8):
            made.append(item)
            yield item

    with closing(read_ahead(items(), 2)) as ahead:
        lead = [len(made) - item for item in ahead]
    assert made == list(range(8))
    assert max(lead) <= 4  # itself, two made, one begun
    assert not threads()


def test_an_error_of_an_item_is_raised_where_it_is_used():
    def items():
        yield 1
        raise OSError("disk")

    seen = []
    with closing(read_ahead(items(), 2)) as ahead, pytest.raises(OSError, match="disk"):
        seen += ahead
    assert seen == [1]
    assert not threads()


def test_patches_of_a_batch_are_the_scaler_applied_to_the_bags(run):
    fold_data, data = run.prepare(0), run.data
    rows = data.training_rows(0)[:12]
    batch = fold_data.batch(rows, None)
    records = [bag for row in rows for bag in data.training_set.bags[row]]
    assert max(len(data.training_set.bags[row]) for row in rows) == 1
    patches, bounds = data.reader.pack(records, STUDY.features.patches_per_case, None)
    np.testing.assert_array_equal(batch.patches_Pd.numpy(), fold_data.pipeline.patches.apply(patches))
    np.testing.assert_array_equal(batch.cu_seqlens.numpy(), bounds)
    assert batch.present["slide"].nonzero().ravel().tolist() == batch.bag_case_S.tolist()


def test_nothing_is_fitted_on_held_out_rows(run, tmp_path, monkeypatch):
    """Neither the pipeline nor a network, should the rule that chooses the rows ever be wrong."""
    everyone = np.arange(len(run.data.training_set))
    fresh = Run(run.data, tmp_path)
    monkeypatch.setattr(type(run.data), "training_rows", lambda _data, _fold: everyone)
    with pytest.raises(LeakageError, match=r"fit without fold 0: .* held out in it, expected none"):
        fresh.prepare(0)
    assert list(tmp_path.iterdir()) == []
    what = Fit("pretrain", "", CONFIG, everyone, None)
    with pytest.raises(LeakageError, match="fit without fold 0"):
        _fitted(run, 0, 0, what)
