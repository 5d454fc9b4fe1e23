"""Vision-language tasks in their official file formats: examples, official metrics, result files."""

from crossgraft.tasks import (  # noqa: F401  (each registers its tasks)
    cloze,
    coco_captions,
    easy_vqa,
    glue,
    gqa,
    nlvr1,
    nlvr2,
    own_data,
    scienceqa,
    snli_ve,
    video_captions,
    video_qa,
    vqav2,
)
from crossgraft.tasks.base import Decoding, Example, NoSuchSplit, Task
from crossgraft.tasks.registry import TASKS, get_task, register_task

__all__ = ["TASKS", "Decoding", "Example", "NoSuchSplit", "Task", "get_task", "register_task"]
