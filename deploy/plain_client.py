"""Asks for recommendations with nothing but grpcio and tensorflow-serving-api, and nothing of this project.

    pip install "tensorflow-serving-api==2.15.1"
    python plain_client.py --target 127.0.0.1:8500 --history ITEM_ID --history ITEM_ID --text "red shoe"

Works against `tfmm serve` and against the official tensorflow_model_server alike.
"""

import argparse
import pathlib

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def strings(values):
    """Returns a [1, width] string tensor; width 0 where there are none."""
    return tf.make_tensor_proto(np.array([values], dtype=object), tf.string, [1, len(values)])


def numbers(values):
    """Returns a [1, width] int64 tensor."""
    return tf.make_tensor_proto(np.array([values], dtype=np.int64), tf.int64, [1, len(values)])


def request(name, history=(), text="", image=b"", audio=b"", exclude=(), filters=()):
    """Returns the request of one shopper. TF Serving wants every input named, so what is unknown is sent empty."""
    asked = predict_pb2.PredictRequest()
    asked.model_spec.name = name
    asked.model_spec.signature_name = "serving_default"
    inputs = {
        "history": strings(list(history)),  # item ids, oldest first
        "history_times": numbers([0] * len(history)),  # seconds since the epoch; 0 = unknown
        "history_events": strings([""] * len(history)),  # "view", "purchase", ...; "" = unknown
        "query_time": tf.make_tensor_proto(np.zeros([1], np.int64)),
        "context": strings([]),  # "field=value" of the shopper
        "query_text": tf.make_tensor_proto([text.encode()]),
        "query_image": tf.make_tensor_proto([image]),  # the bytes of a JPEG, PNG, GIF or BMP
        "query_audio": tf.make_tensor_proto([audio]),  # the bytes of a WAV
        "exclude": strings(list(exclude)),  # item ids never to return
        "filters": strings(list(filters)),  # "field=value" that every answer must have
    }
    for key, value in inputs.items():
        asked.inputs[key].CopyFrom(value)
    return asked


def main():
    """Asks once and prints a score and an item id a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="127.0.0.1:8500")
    parser.add_argument("--name", default="tfmm")
    parser.add_argument("--history", action="append", default=[], metavar="ITEM_ID")
    parser.add_argument("--exclude", action="append", default=[], metavar="ITEM_ID")
    parser.add_argument("--filter", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--text", default="")
    parser.add_argument("--image", type=pathlib.Path)
    arguments = parser.parse_args()
    image = arguments.image.read_bytes() if arguments.image else b""
    asked = request(
        arguments.name,
        arguments.history,
        text=arguments.text,
        image=image,
        exclude=arguments.exclude,
        filters=arguments.filter,
    )
    with grpc.insecure_channel(arguments.target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(asked, timeout=10)
    item_ids, scores = response.outputs["item_ids"].string_val, response.outputs["scores"].float_val
    for item_id, score in zip(item_ids, scores):
        if item_id:
            print(f"{score:9.4f}  {item_id.decode()}")


if __name__ == "__main__":
    main()
