"""The cart join on Bytewax: lines of JSON in, a user's cart out after every event.

Formats of the other contenders (`src/cart.rs`). Run by `bytewax.sh`; INPUT and OUTPUT name the files, and JSON what reads and
writes it: `json` of Python, or `orjson`.
"""

import json
import os
from pathlib import Path

import bytewax.operators as op
from bytewax.connectors.files import FileSink, FileSource
from bytewax.dataflow import Dataflow

if os.environ["JSON"] == "orjson":
    import orjson

    loads = orjson.loads

    def dumps(cart):
        return orjson.dumps(cart).decode()
else:
    loads = json.loads

    def dumps(cart):
        return json.dumps(cart, separators=(",", ":"), ensure_ascii=False)


def join(cart, event):
    paid, unpaid = cart if cart is not None else ([], [])
    order = event["order_id"]
    if event["type"] == "order":
        unpaid.append(order)
    else:
        unpaid.remove(order)
        paid.append(order)
    return (paid, unpaid), (list(paid), list(unpaid))


def row(item):
    user, (paid, unpaid) = item
    cart = {"user_id": user, "paid_order_ids": paid, "unpaid_order_ids": unpaid}
    return user, dumps(cart)


flow = Dataflow("carts")
lines = op.input("events", flow, FileSource(Path(os.environ["INPUT"])))
events = op.map("parse", lines, loads)
keyed = op.key_on("user", events, lambda event: event["user_id"])
carts = op.stateful_map("joiner", keyed, join)
op.output("out", op.map("row", carts, row), FileSink(Path(os.environ["OUTPUT"])))
