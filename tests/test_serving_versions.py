"""Which version is served while versions come, fail and go; and the warm-up that decides it."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import support_model
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tfmm.serving.client import Client
from tfmm.serving.errors import ServingError
from tfmm.serving.manager import Manager
from tfmm.serving.queries import Query, build_example, build_request
from tfmm.serving.servable import load_servable, predict
from tfmm.serving.server import ServerOptions, serve
from tfmm.serving.versions import version_directories
from tfmm.serving.warmup import WARMUP_FILE, read_warmup, replay, write_warmup

SIGNATURES = ("serving_default", "recommend", "retrieve", "embed_query")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("built")
    return {version: support_model.write_model(root, version) for version in (1, 2)}


@pytest.fixture()
def models(tmp_path, built):
    shutil.copytree(built[1], tmp_path / "tfmm" / "1")
    return tmp_path


def add(models, built, version):
    partial = shutil.copytree(built[version], models / "tfmm" / f".partial-{version}")
    return partial.rename(models / "tfmm" / str(version))


def managed(models):
    manager = Manager(models, name="tfmm")
    manager.start(poll_seconds=3600)
    return manager


def served(manager):
    return manager.find("tfmm", None).version


def wait_until(true, seconds=20):
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_only_whole_versions_with_integer_names_count(tmp_path):
    for name in ("1", "7", "12", ".13", "14.partial", "-15", "x16", "17"):
        (tmp_path / name).mkdir()
        if name != "17":  # half written: no graph yet
            (tmp_path / name / "saved_model.pb").touch()
    (tmp_path / "18").touch()
    assert list(version_directories(tmp_path)) == [1, 7, 12]


def test_a_newer_version_takes_over_while_requests_run_and_none_fails(models, built):
    server = serve(models, port=0, options=ServerOptions(poll_seconds=0.05))
    seen, failures, done = set(), [], threading.Event()

    def ask():
        with Client(f"127.0.0.1:{server.port}") as client:
            while not done.is_set():
                try:
                    seen.add(round(client.recommend(history=["item4"])[0][1] % 1, 3))
                except ServingError as error:
                    failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    [thread.start() for thread in threads]
    try:
        wait_until(lambda: 0.1 in seen)
        add(models, built, 2)
        wait_until(lambda: 0.2 in seen)
        with Client(f"127.0.0.1:{server.port}") as client:
            assert client.status() == {2: ("AVAILABLE", ""), 1: ("END", "")}
            assert client.recommend()[0] == ("item4", pytest.approx(4.2))
    finally:
        done.set()
        [thread.join() for thread in threads]
        server.stop(1)
    assert not failures
    assert seen == {0.1, 0.2}  # the version is the first decimal of every score


def test_a_half_written_version_is_not_served(models, built):
    manager = managed(models)
    half = shutil.copytree(built[2], models / "tfmm" / "2", ignore=shutil.ignore_patterns("saved_model.pb"))
    manager.refresh()
    assert served(manager) == 1 and 2 not in manager.statuses()
    shutil.copy(built[2] / "saved_model.pb", half)
    manager.refresh()
    assert served(manager) == 2


def test_a_broken_version_is_reported_and_the_old_one_stays(models, built):
    manager = managed(models)
    broken = add(models, built, 2)
    shutil.rmtree(broken / "variables")
    manager.refresh()
    assert served(manager) == 1
    status = manager.statuses()[2]
    assert status.state == 50 and "variables" in status.error  # 50 = END in ModelVersionStatus.State


def test_a_broken_version_is_tried_again_only_after_its_files_changed(models, built, caplog):
    manager = managed(models)
    graph = add(models, built, 2) / "saved_model.pb"
    graph.write_bytes(b"not a graph")
    for _ in range(3):
        manager.refresh()
    assert len([record for record in caplog.records if "is not served" in record.message]) == 1
    shutil.copy(built[2] / "saved_model.pb", graph)
    manager.refresh()
    assert served(manager) == 2 and manager.statuses()[2].error == ""


def test_deleting_the_newest_version_moves_back_and_deleting_all_keeps_the_last(models, built):
    add(models, built, 2)
    manager = managed(models)
    assert served(manager) == 2
    shutil.rmtree(models / "tfmm" / "2")
    manager.refresh()
    assert served(manager) == 1
    shutil.rmtree(models / "tfmm" / "1")
    manager.refresh()
    assert served(manager) == 1


def test_at_the_start_a_broken_newest_version_falls_back_and_all_broken_is_an_error(models):
    (models / "tfmm" / "2").mkdir()
    (models / "tfmm" / "2" / "saved_model.pb").write_bytes(b"not a graph")
    assert served(managed(models)) == 1
    shutil.rmtree(models / "tfmm" / "1")
    with pytest.raises(RuntimeError, match="version 2"):
        managed(models)


def test_a_version_that_fails_its_own_warm_up_is_not_served(models, built):
    manager = managed(models)
    requests = build_request([Query(image=b"not a picture")])
    partial = shutil.copytree(built[2], models / "tfmm" / ".partial")
    write_warmup(partial, {"recommend": requests})
    partial.rename(models / "tfmm" / "2")
    manager.refresh()
    assert served(manager) == 1
    assert "Unknown image file format" in manager.statuses()[2].error


def test_warm_up_records_are_prediction_logs_and_each_replays_to_the_same_answer(tmp_path, built):
    version = shutil.copytree(built[1], tmp_path / "1")
    query = Query(history=["item1", "item2"], text="item3", audio=b"\x00\x01\x00")
    requests = {signature: build_request([query, Query()]) for signature in SIGNATURES}
    requests["recommend_examples"] = {"examples": np.array([build_example(query)], object)}
    path = write_warmup(version, requests)
    assert path == version / WARMUP_FILE == version / "assets.extra" / "tf_serving_warmup_requests"
    records = list(tf.compat.v1.io.tf_record_iterator(str(path)))  # another reader than ours
    logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    assert [log.predict_log.request.model_spec.signature_name for log in logs] == list(requests)
    assert {log.predict_log.request.model_spec.name for log in logs} == {"tfmm"}
    servable = load_servable(version)
    assert replay(servable) == len(requests)
    for signature, inputs in read_warmup(version):
        for name, array in predict(servable, signature, inputs).items():
            direct = predict(servable, signature, requests[signature])[name]
            np.testing.assert_array_equal(array, direct)


def test_a_version_without_warm_up_replays_nothing(built):
    assert replay(load_servable(built[1])) == 0


def test_a_warm_up_file_of_something_else_is_an_error(tmp_path, built):
    version = shutil.copytree(built[1], tmp_path / "1")
    (version / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(version / WARMUP_FILE)) as writer:
        writer.write(b"\xff\xff\xff")
    with pytest.raises(ValueError, match="record 0"):
        list(read_warmup(version))


def test_sigterm_lets_the_request_in_flight_end(models):
    code = textwrap.dedent(
        """
        import sys, time, logging
        from pathlib import Path
        import tfmm.serving.services as services
        from tfmm.serving.server import run
        computed = services.predict
        def slowly(*args, **kwargs):
            print("computing", flush=True)
            time.sleep(1.0)
            return computed(*args, **kwargs)
        services.predict = slowly
        logging.basicConfig(level=logging.INFO, stream=sys.stdout)
        run(Path(sys.argv[1]), port=0)
        """
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(models)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parent.parent,
    )
    try:
        listening = next(line for line in process.stdout if "listening on" in line)
        port = int(listening.rsplit(":", 1)[1])
        answers = []
        with Client(f"127.0.0.1:{port}", timeout=20) as client:
            asking = threading.Thread(target=lambda: answers.append(client.recommend()))
            asking.start()
            assert next(process.stdout) == "computing\n"
            process.send_signal(signal.SIGTERM)
            asking.join()
        assert answers[0][0] == ("item4", pytest.approx(4.1))
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
