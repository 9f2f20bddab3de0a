"""ISA-95 paths: templates, what fills them, and the one rule for characters that a path cannot hold.

A *template* is text with ``{placeholders}``, its levels divided by ``/``. A level whose placeholder has no value is left
out, so that ``{site}/{area}/{line}/{equipment}/{signal_type}/{tag_name}`` gives five levels for a boiler that belongs to
no line.

**The rule for characters.** Paths become MQTT topics, parts of Kafka topics, file names and SQL strings, so a level holds
letters, digits and combining marks of any script, ``_``, ``-`` and, inside, ``.``. What else a value contains (``/``,
``+``, ``#``, ``%``, quotes, spaces, control characters, invisible ones …) is replaced: a run of such characters becomes
one ``_``, and at the ends of a level they go, dots with them. A level of which nothing is left is ``_``. Text is in Unicode's
composed form (NFC), and a level of more than 255 bytes of UTF-8 is cut and ends in a hash of the whole.
"""

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2s
from typing import Final

DEFAULT_TEMPLATE: Final = "{site}/{area}/{line}/{equipment}/{signal_type}/{tag_name}"
PLACES: Final = ("site", "area", "line", "equipment")
PLACEHOLDERS: Final = (*PLACES, "signal_type", "tag_name", "source", "protocol", "device_id", "address", "unit")

_LEVEL_BYTES: Final = 255  # what one name of a file system holds
_SOUND: Final = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9_.-]{0,198}[A-Za-z0-9_-])?")


def level(text: str) -> str:
    """`text` as one level of a path, by the rule above; never empty, and itself when it is one already."""
    if _SOUND.fullmatch(text):
        return text
    text = "".join(
        c if c in "_-." or unicodedata.category(c)[0] in "LMN" else "\0" for c in unicodedata.normalize("NFC", text)
    )
    out = re.sub("\0+", "_", text.strip("\0.")) or "_"
    encoded = out.encode()
    if len(encoded) > _LEVEL_BYTES:
        digest = blake2s(encoded, digest_size=8).hexdigest()
        out = f"{encoded[: _LEVEL_BYTES - 17].decode(errors='ignore')}-{digest}"
    return out


class PathTemplate:
    """A template, checked and taken apart; see `path_template`."""

    def __init__(self, text: str) -> None:
        self.text: Final = text
        self._levels: Final = [_parts(part, text) for part in text.split("/") if part]
        self.placeholders: Final = frozenset(name for parts in self._levels for name in parts[1::2])
        if not self._levels:
            raise ValueError(f"path template `{text}` is empty; the usual one is `{DEFAULT_TEMPLATE}`")

    def fill(self, values: Mapping[str, str]) -> str:
        """The path for `values`, by placeholder; empty when every level was left out."""
        levels = []
        for parts in self._levels:
            filled = list(parts)
            filled[1::2] = [values.get(name, "").strip() for name in parts[1::2]]
            if all(filled[1::2]):
                levels.append(level("".join(filled)))
        return "/".join(levels)


@lru_cache(maxsize=256)
def path_template(text: str) -> PathTemplate:
    """Check and take apart a template.

    Placeholders are ``{site} {area} {line} {equipment} {signal_type} {tag_name} {source} {protocol} {device_id} {address}
    {unit}`` and ``{metadata.KEY}``; several of them and plain text may share a level, as in ``{line}-{equipment}``.

    Raises:
        ValueError: An unknown placeholder, a brace without its other, or a character that no path can hold.
    """
    return PathTemplate(text)


def _parts(text: str, template: str) -> list[str]:
    """Plain text and placeholders of one level in turn: text, name, text, …, text."""
    parts = re.split(r"\{([^{}]*)\}", text)
    for plain in parts[::2]:
        for c in plain:
            if not (c in "_-." or unicodedata.category(c)[0] in "LMN"):
                what = "a brace without its other" if c in "{}" else "a character that a path cannot hold"
                raise ValueError(f"path template `{template}`: `{c}` in `{text}` is {what}")
    for name in parts[1::2]:
        if name not in PLACEHOLDERS and not (name.startswith("metadata.") and len(name) > len("metadata.")):
            raise ValueError(
                f"path template `{template}`: `{{{name}}}` is not known; known are "
                + " ".join(f"{{{known}}}" for known in (*PLACEHOLDERS, "metadata.KEY"))
            )
    return parts


# Unit -> kind of signal. Looked up as written first (mW and MW, S and s differ), then without case.
_UNITS: Final = {
    unit: kind
    for kind, units in {
        "temperature": "°C °F °K ℃ ℉ K degC degF deg_C deg_F DegreeCelsius celsius fahrenheit kelvin CEL FAH KEL °R C F",
        "pressure": "bar mbar µbar barg bara bar(g) bar(a) Pa hPa kPa MPa GPa psi psig psia atm mmHg inHg mmH2O inH2O Torr BAR MBR PAL",
        "speed": "rpm RPM 1/min min-1 min^-1 r/min rev/min U/min m/s mm/s cm/s m/min km/h mph ft/s ft/min kn rad/s deg/s °/s MTS KMH",
        "acceleration": "m/s² m/s2 m/s^2 mm/s² g_n gn",
        "flow": "m³/h m3/h m^3/h m³/s m3/s m³/min l/h L/h l/min L/min l/s L/s ml/min mL/min gpm GPM cfm scfm Nm³/h Nm3/h kg/h kg/s "
        "kg/min g/s g/min t/h lb/h MQH",
        "volume": "m³ m3 l L ml mL hl gal liter litre MTQ LTR",
        "voltage": "V mV kV µV uV VAC VDC Volt VLT",
        "current": "A mA µA uA kA Amp Ampere AMP",
        "resistance": "Ω mΩ kΩ MΩ ohm kohm OHM",
        "capacitance": "mF µF uF nF pF",
        "power": "W mW kW MW GW VA kVA MVA var kvar Mvar hp PS WTT KWT",
        "energy": "J kJ MJ GJ Wh kWh MWh GWh kvarh kVAh kcal BTU WHR KWH",
        "frequency": "Hz mHz kHz MHz GHz HTZ",
        "humidity": "%RH %rH %r.F. rH% g/m³ g/m3",
        "length": "m mm cm µm um nm km in inch ft MTR MMT",
        "angle": "° deg rad mrad degree arcmin arcsec",
        "force": "N mN kN MN lbf kgf NEW",
        "torque": "Nm N·m N.m N*m kNm lbf·ft lbf.ft",
        "mass": "kg g mg µg t lb oz KGM GRM",
        "duration": "s ms µs us ns min h d sec second seconds minute minutes hour hours days SEC MIN HUR",
        "density": "kg/m³ kg/m3 g/cm³ g/cm3 kg/l g/l g/ml",
        "viscosity": "Pa·s Pa.s mPa·s mPa.s cP cSt mm²/s mm2/s",
        "conductivity": "S/m mS/m µS/cm uS/cm mS/cm S mS µS",
        "concentration": "ppm ppb mg/l mg/L µg/l mg/m³ mg/m3 µg/m³ mol/l %vol vol% ppmv",
        "ph": "pH",
        "illuminance": "lx lux klx",
        "sound": "dB dBA dB(A)",
        "radiation": "W/m² W/m2",
        "data": "B kB MB GB bit byte bytes bit/s kbit/s Mbit/s B/s kB/s MB/s",
    }.items()
    for unit in units.split()
}  # fmt: skip
_UNITS_ANY_CASE: Final = {unit.lower(): kind for unit, kind in reversed(_UNITS.items()) if len(unit) > 1}

# Word of a tag's name -> kind of signal.
_WORDS: Final = {
    word: kind
    for kind, words in {
        "temperature": "temperature temperatures temp temps tmp temperatur thermocouple pt100 pt1000",
        "pressure": "pressure druck vacuum",
        "speed": "speed rpm velocity drehzahl geschwindigkeit",
        "acceleration": "acceleration accel",
        "vibration": "vibration vib vibrations",
        "flow": "flow flowrate durchfluss",
        "level": "level niveau füllstand fuellstand",
        "volume": "volume volumen",
        "voltage": "voltage volt volts spannung",
        "current": "current amps amp ampere strom",
        "resistance": "resistance",
        "power": "power leistung",
        "energy": "energy energie kwh consumption",
        "frequency": "frequency freq frequenz",
        "humidity": "humidity feuchte moisture",
        "position": "position pos",
        "length": "length distance",
        "angle": "angle winkel",
        "force": "force kraft",
        "torque": "torque drehmoment",
        "mass": "mass weight gewicht",
        "duration": "duration runtime uptime",
        "density": "density dichte",
        "viscosity": "viscosity",
        "conductivity": "conductivity leitwert",
        "concentration": "concentration co2 ppm",
        "ph": "ph",
        "count": "count counter counts cnt pieces zähler zaehler",
        "state": "state status mode running enabled zustand",
        "alarm": "alarm alarms fault warning störung stoerung",
        "setpoint": "setpoint sp sollwert",
    }.items()
    for word in words.split()
}

_CAMEL: Final = re.compile(r"(?<=[a-zß-öø-ÿ0-9])(?=[A-ZÀ-ÖØ-Þ])|(?<=[A-Z])(?=[A-Z][a-z])")


def signal_type(unit: str, tag_name: str) -> str:
    """Kind of signal by the unit, else by the last known word of the tag's name; empty when neither tells.

    Names are divided at ``_ - .``, spaces, slashes and changes of case (``reactorTemp``); numbers at a word's end do not
    count (``temp1``). The last word wins, as in English the last noun is what a name speaks of (``pump_temp_alarm``).
    """
    text = unicodedata.normalize("NFC", unit).strip().replace("º", "°").replace("° ", "°").replace("μ", "µ")
    kind = _UNITS.get(text) or _UNITS_ANY_CASE.get(text.lower())
    if kind:
        return kind
    words = re.split(r"[\W_]+", _CAMEL.sub(" ", unicodedata.normalize("NFC", tag_name)))
    for word in reversed([word.lower() for word in words]):
        kind = _WORDS.get(word) or _WORDS.get(word.rstrip("0123456789"))
        if kind:
            return kind
    return ""
