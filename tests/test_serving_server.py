"""The gRPC server: what clients of TF Serving rely on, over a model whose answers are known."""

import socket
import threading

import grpc
import numpy as np
import pytest
import support_model
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tfmm import schema
from tfmm.serving.client import Client
from tfmm.serving.errors import ServingError
from tfmm.serving.local import load_model
from tfmm.serving.queries import Query, build_request
from tfmm.serving.server import ServerOptions, serve

PNG = tf.io.encode_png(np.full([2, 2, 3], 255, np.uint8)).numpy()
OPTIONS = ServerOptions(poll_seconds=3600, max_message_mb=1, max_rows=8)


@pytest.fixture(scope="module")
def saved_models(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved_models")
    support_model.write_model(root / "tfmm", 3)
    return root


@pytest.fixture(scope="module")
def server(saved_models):
    running = serve(saved_models, port=0, options=OPTIONS)
    yield running
    running.stop(0)


@pytest.fixture(scope="module")
def client(server):
    with Client(f"127.0.0.1:{server.port}") as connected:
        yield connected


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def request_of(**query):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "tfmm"
    for name, array in build_request([Query(**query)]).items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    return request


def refusal(call, request):
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=10)
    return caught.value.code(), caught.value.details()


def test_answers_are_what_arithmetic_says(client):
    answer = client.recommend(history=["item4"], exclude=["item0"], text="item1", image=PNG)
    # score = number + version / 10 + 10 where the text names the item + brightness of a white picture (1)
    assert [item for item, _ in answer] == ["item1", "item3", "item2"]
    np.testing.assert_allclose([score for _, score in answer], [12.3, 4.3, 3.3], rtol=1e-6)


def test_server_and_local_model_give_the_same_answers(client, saved_models):
    queries = [
        Query(),
        Query(history=["item1", "item2", "nobody"], times=[1, 2, 3], events=["view", "", "cart"]),
        Query(text="商品", image=PNG, audio=b"\x00\x01\x00", context=["gender=F"], filters=["a=b", "c=d"], time=9),
    ]
    local = load_model(saved_models)
    for signature in ("serving_default", "recommend", "retrieve", "embed_query"):
        remote = client.predict(build_request(queries), signature=signature)
        here = local.predict(build_request(queries), signature=signature)
        assert sorted(remote) == sorted(here)
        for name in here:
            np.testing.assert_array_equal(remote[name], here[name])
    assert client.recommend_batch(queries) == local.recommend_batch(queries)


def test_a_plain_predict_request_needs_only_a_name_and_its_answer_is_in_typed_fields(stub):
    response = stub.Predict(request_of(history=["item4"]), timeout=10)
    assert list(response.outputs["item_ids"].string_val) == [b"item3", b"item2", b"item1", b"item0", b""]
    np.testing.assert_allclose(list(response.outputs["scores"].float_val), [3.3, 2.3, 1.3, 0.3, 0.0], rtol=1e-6)
    assert (response.model_spec.name, response.model_spec.version.value) == ("tfmm", 3)
    assert response.model_spec.signature_name == "serving_default"


def test_output_filter_returns_only_what_it_names(stub):
    request = request_of()
    request.output_filter.append("scores")
    assert list(stub.Predict(request, timeout=10).outputs) == ["scores"]
    request.output_filter.append("scores")
    assert refusal(stub.Predict, request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "duplicate output tensor alias: scores",
    )
    del request.output_filter[:]
    request.output_filter.append("prices")
    code, details = refusal(stub.Predict, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "prices" in details and "{item_ids,scores}" in details


def _unknown_model(request):
    request.model_spec.name = "other"


def _old_version(request):
    request.model_spec.version.value = 2


def _label(request):
    request.model_spec.version_label = "stable"


def _no_spec(request):
    request.ClearField("model_spec")


def _no_name(request):
    request.model_spec.name = ""


def _unknown_signature(request):
    request.model_spec.signature_name = "classify"


def _missing_input(request):
    del request.inputs["history_times"]


def _unknown_input(request):
    request.inputs["colour"].CopyFrom(tf.make_tensor_proto(["red"]))


def _wrong_dtype(request):
    request.inputs["query_time"].CopyFrom(tf.make_tensor_proto([1.5]))


def _wrong_rank(request):
    request.inputs["history"].CopyFrom(tf.make_tensor_proto([b"item1"]))


def _short_values(request):
    request.inputs["query_time"].tensor_content = b"123"


def _huge_shape(request):
    request.inputs["query_time"].tensor_shape.dim[0].size = 1 << 40


def _negative_shape(request):
    request.inputs["query_time"].tensor_shape.dim[0].size = -1


def _no_dtype(request):
    request.inputs["query_time"].dtype = 0


def _odd_dtype(request):
    request.inputs["query_time"].CopyFrom(tf.make_tensor_proto(tf.constant([1], tf.bfloat16).numpy()))


def _broken_image(request):
    request.inputs["query_image"].CopyFrom(tf.make_tensor_proto([b"not a picture"]))


def _bare_signature(request):
    request.inputs["query_image"].CopyFrom(tf.make_tensor_proto([b"\x89PNG"]))  # which TensorFlow quotes as it is


def _unequal_batches(request):
    request.inputs["history"].CopyFrom(tf.make_tensor_proto(np.full([3, 1], b"item1", object)))


def _no_example(request):
    _ask(request, "recommend_examples", examples=np.array([b"\xffjunk"], object))


def _too_many_rows(request):
    _ask(request, "similar_items", item_ids=np.full(9, b"item1", object))


def _ask(request, signature, **inputs):
    request.model_spec.signature_name = signature
    for name in list(request.inputs):
        del request.inputs[name]
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))


def _one_string_a_million_times(request):
    request.inputs["query_text"].tensor_shape.dim[0].size = 1 << 21


INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (_unknown_model, NOT_FOUND, ["Servable not found for request: Latest(other)"]),
        (_old_version, NOT_FOUND, ["Servable not found for request: Specific(tfmm, 2)"]),
        (_label, INVALID, ["Unrecognized servable version label: stable"]),
        (_no_spec, INVALID, ["Missing ModelSpec"]),
        (_no_name, INVALID, ["ModelSpec has no name specified."]),
        (
            _unknown_signature,
            grpc.StatusCode.FAILED_PRECONDITION,
            ['Serving signature key "classify" not found.', "recommend"],
        ),
        (_missing_input, INVALID, ["9!=10", "Missing but required: {history_times}"]),
        (_unknown_input, INVALID, ["11!=10", "Sent extra: {colour}"]),
        (_wrong_dtype, INVALID, ["'query_time'", "expected int64", "got float32"]),
        (_wrong_rank, INVALID, ["'history'", "expected string of shape (None, None)", "got [1]"]),
        (_short_values, INVALID, ["'query_time'", "do not fill a int64 of shape [1]"]),
        (_huge_shape, INVALID, ["'query_time'", "[1099511627776]"]),
        (_negative_shape, INVALID, ["'query_time'", "[-1]"]),
        (_no_dtype, INVALID, ["'query_time'"]),
        (_odd_dtype, INVALID, ["'query_time'", "expected int64", "got bfloat16"]),
        (_broken_image, INVALID, ["Expected a whole JPEG, PNG, GIF or BMP", "Unknown image file format"]),
        (_bare_signature, INVALID, ["Expected a whole JPEG, PNG, GIF or BMP"]),
        (_unequal_batches, INVALID, ["'history'", "as many rows as 'context' has (1)", "got 3"]),
        (_no_example, INVALID, ["got other bytes", "Serialise them anew"]),
        (_too_many_rows, INVALID, ["'item_ids'", "at most 8 rows", "got 9", "--max_rows"]),
        (_one_string_a_million_times, INVALID, ["'query_text'", "repeats a string"]),
    ],
)
def test_every_bad_request_is_refused_by_code_and_reason_and_the_server_goes_on(stub, damage, code, words):
    request = request_of(history=["item1"])
    damage(request)
    came, details = refusal(stub.Predict, request)
    assert came == code, details
    for word in words:
        assert word in details
    assert "{{" not in details and "Detected at node" not in details  # TensorFlow's own talk
    assert stub.Predict(request_of(), timeout=10).outputs["item_ids"].string_val[0] == b"item4"


def test_a_message_over_the_limit_is_refused_with_the_limit(stub):
    code, details = refusal(stub.Predict, request_of(text="x" * (2 << 20)))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED and str(1 << 20) in details


def test_classification_is_unimplemented_with_a_reason(stub):
    code, details = refusal(stub.Classify, classification_pb2.ClassificationRequest())
    assert code == grpc.StatusCode.UNIMPLEMENTED and "Predict" in details


def test_metadata_describes_every_input_of_the_schema(client, stub):
    signatures = client.metadata()
    assert {"serving_default", "recommend", "retrieve", "embed_query", "similar_items"} <= set(signatures)
    described = {
        name: (tf.as_dtype(info.dtype), tf.TensorShape(info.tensor_shape).rank)
        for name, info in signatures["recommend"].inputs.items()
    }
    assert described == {name: (spec.dtype, spec.shape.rank) for name, spec in schema.query_signature().items()}
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "tfmm"
    assert refusal(stub.GetModelMetadata, request)[0] == INVALID
    request.metadata_field.append("weights")
    assert refusal(stub.GetModelMetadata, request) == (INVALID, "Metadata field weights is not supported")


def test_status_names_the_version_that_answers(client, server):
    assert client.status() == {3: ("AVAILABLE", "")}
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "tfmm"
        request.model_spec.version.value = 9
        assert refusal(call, request) == (NOT_FOUND, "Could not find version 9 of model tfmm")
        request.model_spec.name = "other"
        request.model_spec.ClearField("version")
        assert refusal(call, request) == (NOT_FOUND, "Could not find any versions of model other")


def test_health_serves_until_the_server_drains(saved_models):
    draining = serve(saved_models, port=0, options=OPTIONS)
    with grpc.insecure_channel(f"127.0.0.1:{draining.port}") as channel:
        checks = health_pb2_grpc.HealthStub(channel)
        for service in ("", "tfmm", "tensorflow.serving.PredictionService"):
            answer = checks.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        states = checks.Watch(health_pb2.HealthCheckRequest(service="tfmm"), timeout=10)
        assert next(states).status == health_pb2.HealthCheckResponse.SERVING
        stopper = threading.Thread(target=draining.stop, args=[2])
        stopper.start()
        assert next(states).status == health_pb2.HealthCheckResponse.NOT_SERVING
        states.cancel()
        stopper.join()
    assert draining.wait(timeout=1)


def test_an_absent_server_is_an_error_that_says_how_to_start_one():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with (
            Client(f"127.0.0.1:{unused.getsockname()[1]}", timeout=5) as lonely,
            pytest.raises(ServingError, match="tfmm serve"),
        ):
            lonely.recommend(history=["item1"])


def test_a_taken_port_is_an_error_and_not_a_second_server_on_it(saved_models, server):
    with pytest.raises(OSError, match=f"127.0.0.1:{server.port}.*--port"):
        serve(saved_models, port=server.port, options=OPTIONS)


def test_a_directory_without_a_version_is_an_error_that_names_it(tmp_path):
    (tmp_path / "tfmm" / ".partial-1").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="partial-1"):
        serve(tmp_path, port=0)
    with pytest.raises(FileNotFoundError, match="no such directory"):
        load_model(tmp_path / "elsewhere")
