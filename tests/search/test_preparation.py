from search import preparation
from search.cluster import connected
from search.journal import Journal
from search.places import Places
from search.plan import shared_artifacts
from trainables import cache, teachers
from trainables.config import ScoresSpec, SoftLabelsSpec


def test_what_is_shared_is_made_in_parts_by_tasks_of_their_own(
    make_spec, plan, tmp_path, monkeypatch
):
    """Two seeds of scores and nine shards of a table, one of them left by an earlier attempt."""
    places = Places.at(tmp_path)
    places.make()
    spec = make_spec(
        dataset={"name": "digits", "augmentation": "crop"},
        recipe={"epochs": 2, "batch_size": 64},
        contexts={"method": ["el2n"], "fraction": 0.5, "teacher": "cnn4"},
        seeds={"trials": 2, "scores": 2},
        soft_labels="views",
    )
    ledger = plan(Journal(places.record), spec)
    (table,) = [each for each in shared_artifacts(spec) if isinstance(each, SoftLabelsSpec)]
    (scores,) = [each for each in shared_artifacts(spec) if isinstance(each, ScoresSpec)]
    # No teacher would say this: where it is found again, it was not made again.
    earlier = teachers.make_shard(table, 4, places.cache).clone() + 100
    cache.store(places.cache, teachers.shard_key(table, 4), {teachers.LOGITS: earlier}, {})
    started, start = [], preparation._start
    monkeypatch.setattr(
        preparation, "_start", lambda *args: started.append(args[3:]) or start(*args)
    )
    said = []
    with connected(places.folder(spec.name), None):
        preparation.prepare_shared(spec, places, ledger, said.append)
    assert [index for artifact, *index in started if artifact == table] == [
        *([i] for i in range(9)),
        [],
    ]
    assert [index for artifact, *index in started if artifact == scores] == [[0], [1], []]
    assert set(ledger.prepared) == {each.key for each in shared_artifacts(spec)}
    assert not list(places.cache.glob("*-shard*"))
    logits = cache.load(places.cache, table.key)[0][teachers.LOGITS]
    assert logits.shape == (81, 1293, 10)
    assert (logits[36:45] == earlier).all()
    assert logits[:36].max() < 50
    assert any("soft labels of teacher cnn4" in line for line in said)
