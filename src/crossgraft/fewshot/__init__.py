"""Few-shot classifiers on frozen features: scikit-learn estimators, one file a method."""

# Registration order is the order of every table: the baselines first.
# isort: off
from crossgraft.fewshot.zero_shot import ZeroShot
from crossgraft.fewshot.linear_probe import LinearProbe
from crossgraft.fewshot.nearest_mean import NearestMean
from crossgraft.fewshot.tip_adapter import TipAdapter, TipAdapterF
from crossgraft.fewshot.gda import GDA
from crossgraft.fewshot.proker import ProKeR
from crossgraft.fewshot.ss_text import SSText
from crossgraft.fewshot.timo import TIMO
from crossgraft.fewshot.lpp import LPPlusPlus
from crossgraft.fewshot.clap import CLAP
from crossgraft.fewshot.taskres import TaskRes
from crossgraft.fewshot.prolip import ProLIP
from crossgraft.fewshot.xmadapter_paper import XMAdapterPaper
from crossgraft.fewshot.xmadapter import XMAdapter
from crossgraft.fewshot.auto import Auto
# isort: on

from crossgraft.fewshot.base import FewShotClassifier
from crossgraft.fewshot.evidence import Evidence
from crossgraft.fewshot.persist import load_classifier, save_classifier
from crossgraft.fewshot.registry import METHODS, get_method, register

__all__ = [
    "CLAP",
    "GDA",
    "METHODS",
    "TIMO",
    "Auto",
    "Evidence",
    "FewShotClassifier",
    "LPPlusPlus",
    "LinearProbe",
    "NearestMean",
    "ProKeR",
    "ProLIP",
    "SSText",
    "TaskRes",
    "TipAdapter",
    "TipAdapterF",
    "XMAdapter",
    "XMAdapterPaper",
    "ZeroShot",
    "get_method",
    "load_classifier",
    "register",
    "save_classifier",
]
