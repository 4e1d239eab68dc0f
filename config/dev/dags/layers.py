"""Classic operators in layers: each task of a layer waits for every task of the layer before it."""

from __future__ import annotations

from itertools import pairwise

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, cross_downstream

LAYERS, WIDTH = 3, 3


def add_up(upto: int) -> int:
    return sum(range(upto + 1))


with DAG("layers", schedule=None, tags=["classic"]):
    layers = [
        [
            BashOperator(task_id=f"layer{depth}_bash{index}", bash_command=f"echo {depth}.{index}")
            if index == 0
            else PythonOperator(
                task_id=f"layer{depth}_python{index}", python_callable=add_up, op_args=[100 * index]
            )
            for index in range(WIDTH)
        ]
        for depth in range(LAYERS)
    ]
    for upper, lower in pairwise(layers):
        cross_downstream(upper, lower)
