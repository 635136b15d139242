"""The page in a real Chromium, before a real gateway and tritonserver; its microphone hears a recording."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import jiwer
import pytest
import soundfile
import srt
import webvtt

from orchestrator import resources
from tests.integration import chromium
from tests.integration.chromium import Browser, Page
from tests.integration.conftest import MODELS
from tests.integration.gateway_process import NOWHERE, Running, running

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.skipif(chromium.installed() is None, reason="no Chromium is installed"),
]

DIALOGUE = Path(resources.__file__).parent / "training" / "checkpoint" / "dialogue.flac"
TEXT = json.loads(DIALOGUE.with_suffix(".json").read_text())["text"]
KEY = "open-sesame"
DESKTOP = (1280, 800)
PHONE = (390, 844)
READER = "!document.getElementById('reader').hidden"
NOTICE = "!document.getElementById('notice').hidden && document.getElementById('notice').innerText"
LENGTH = "0:22"
"""Of the dialogue, as clocks show it."""
TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))).then(() => 0)"
"""After a pause the player moves once more, with the next frame."""
SAID = "[...document.querySelectorAll('#{} .said')].map((said) => said.textContent)"


@pytest.fixture(scope="module")
def gateway(triton: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("gateway"), triton.url) as started:
        yield started
        assert started.process.poll() is None, "it must have lived through all tests"


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the microphone hears, and what is uploaded."""
    samples, rate = soundfile.read(DIALOGUE, dtype="float32")
    path = tmp_path_factory.mktemp("talk") / "dialogue.wav"
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def short(wav: Path) -> Path:
    """Its beginning, where the words do not matter."""
    samples, rate = soundfile.read(wav)
    path = wav.with_name("short.wav")
    soundfile.write(path, samples[: 6 * rate], rate, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, wav: Path) -> Iterator[Browser]:
    flags = ("--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={wav}%noloop")
    with chromium.running(tmp_path_factory.mktemp("chromium"), *flags) as started:
        yield started


@pytest.fixture(scope="module")
def axe() -> str:
    """The accessibility rules of axe-core, out of a package that carries them."""
    found = importlib.util.find_spec("axe_core_python")
    assert found is not None
    assert found.origin is not None
    (script,) = Path(found.origin).parent.rglob("axe.min.js")
    return script.read_text()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab whose console must stay clean."""
    with browser.page(permissions=["audioCapture"]) as opened:
        opened.look(*DESKTOP)
        yield opened
        assert opened.faults == []


def opened(page: Page, gateway: Running, tab: str = "live") -> None:
    page.go(f"{gateway.url}/#{tab}")
    page.wait("document.getElementById('pill').dataset.state === 'good'")


def read(page: Page, gateway: Running, wav: Path) -> None:
    """Upload the recording and wait for its transcript."""
    opened(page, gateway, "recording")
    page.choose("#file", wav)
    page.wait(READER)


def watch_marks(page: Page, script: str) -> None:
    """Note in ``marks`` which words are marked as heard: each only for as long as it lasts."""
    page.js(
        "window.marks = [];"
        "new MutationObserver(() => {"
        f"  const now = document.querySelector('#{script} .now');"
        "  if (now) marks.push(Number(now.dataset.at));"
        f"}}).observe(document.getElementById('{script}'), {{ subtree: true, attributeFilter: ['class'] }})"
    )


def said(page: Page, script: str) -> str:
    return " ".join(page.js(SAID.format(script)))


# A recording


def test_a_recording_is_read_and_heard(page: Page, gateway: Running, wav: Path) -> None:
    read(page, gateway, wav)
    assert jiwer.wer(TEXT, said(page, "reader-script")) < 0.15
    colours = page.js(
        "[...new Set([...document.querySelectorAll('#reader-script .name')]"
        ".map((name) => name.textContent + getComputedStyle(name).color))]"
    )
    assert len(colours) == 2, "each speaker has one colour"
    assert len({colour[len("Speaker 1") :] for colour in colours}) == 2

    at = 12
    watch_marks(page, "reader-script")
    page.click(f"#reader-script [data-at='{at}']")
    page.wait(f"marks.includes({at})")
    page.wait(f"marks.at(-1) > {at}")
    page.js("document.activeElement.blur()")
    page.key(" ")
    page.wait("document.querySelector('#reader-player .play').getAttribute('aria-label') === 'Play'")
    page.js(TWO_FRAMES)
    stopped = page.js("document.querySelector('#reader-player .seek').value")
    time.sleep(0.4)
    assert page.js("document.querySelector('#reader-player .seek').value") == stopped


def test_the_word_that_is_marked_is_the_word_that_is_heard(page: Page, gateway: Running, wav: Path) -> None:
    read(page, gateway, wav)
    fields = {"model": "auto", "response_format": "verbose_json", "timestamp_granularities[]": "word"}
    with wav.open("rb") as file:
        answer = httpx.post(
            f"{gateway.url}/v1/audio/transcriptions", data=fields, files={"file": file}, timeout=240
        ).json()
    for at in (3, 20, len(answer["words"]) - 1):
        word = answer["words"][at]
        middle = (word["start"] + word["end"]) / 2
        page.js(
            "(() => { const seek = document.querySelector('#reader-player .seek');"
            f" seek.value = {middle}; seek.dispatchEvent(new Event('input')); }})()"
        )
        assert page.wait("document.querySelector('#reader-script .now')?.textContent") == word["word"]


def test_keys_alone(page: Page, gateway: Running, wav: Path) -> None:
    read(page, gateway, wav)  # the whole: it must not be over before the keys are pressed
    page.key("3")
    assert page.js("document.activeElement.id") == "tab-server"
    page.key("ArrowLeft")
    assert page.js("document.activeElement.id") == "tab-recording"
    page.key("t")
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp", "ArrowRight"):
        page.key(key)
    cursor = "document.querySelector('#reader-script .cursor')"
    assert page.js(f"{cursor}.dataset.at") == "1"
    assert page.js(f"getComputedStyle({cursor}).outlineStyle") == "solid", "the focus can be seen"
    page.key("Enter")
    page.wait("document.querySelector('#reader-player .play').getAttribute('aria-label') === 'Pause'")
    page.key(" ")
    page.wait("document.querySelector('#reader-player .play').getAttribute('aria-label') === 'Play'")
    page.js(TWO_FRAMES)
    before = float(page.js("document.querySelector('#reader-player .seek').value"))
    page.key("k")
    after = float(page.js("document.querySelector('#reader-player .seek').value"))
    assert after == pytest.approx(before + 5, abs=0.02)
    page.key("?")
    assert page.js("document.getElementById('help-dialog').open")
    page.key("Escape")
    assert not page.js("document.getElementById('help-dialog').open")


def test_tab_goes_through_everything_in_order_and_is_seen(page: Page, gateway: Running, short: Path) -> None:
    read(page, gateway, short)
    page.js("document.querySelector('.skip').focus()")
    passed: list[str] = []
    while len(passed) < 60:
        here, shown = page.js(
            "(() => { const e = document.activeElement; const s = getComputedStyle(e);"
            " const own = s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0;"
            " const other = ['reader-script', 'file'].includes(e.id);"
            " return [e.id || e.className || e.tagName, own || other]; })()"
        )
        if here == "BODY" or here in passed[:1]:
            break
        assert shown or here == "skip", f"the focus cannot be seen on {here}"
        passed.append(here)
        page.key("Tab")
    wanted = ["skip", "tab-recording", "theme", "help", "file", "reader-script", "play", "seek", "speed"]
    assert [name for name in passed if name in wanted] == wanted


def test_speakers_can_be_given_names(page: Page, gateway: Running, wav: Path, tmp_path: Path) -> None:
    read(page, gateway, wav)
    page.click("#reader-script .name")
    page.js("document.activeElement.select()")
    page.type("Anna")
    page.key("Enter")
    names = page.js("[...document.querySelectorAll('#reader-script .name')].map((name) => name.textContent)")
    assert names.count("Anna") > 1
    assert set(names) == {"Anna", "Speaker 2"}
    page.downloads(tmp_path)
    page.click("#reader-player [data-format=txt]")
    assert "Anna: hello" in page.saved(tmp_path / "dialogue.txt")


def test_saved_files_can_be_read_by_others(page: Page, gateway: Running, wav: Path, tmp_path: Path) -> None:
    read(page, gateway, wav)
    page.downloads(tmp_path)
    for form in ("srt", "vtt", "txt", "json"):
        page.click(f"#reader-player [data-format={form}]")
    plain = said(page, "reader-script").split()
    subtitles = list(srt.parse(page.saved(tmp_path / "dialogue.srt")))
    assert " ".join(cue.content.partition(": ")[2] for cue in subtitles).split() == plain
    assert all(cue.start < cue.end <= later.start for cue, later in pairwise(subtitles))
    page.saved(tmp_path / "dialogue.vtt")
    cues = webvtt.read(str(tmp_path / "dialogue.vtt"))
    assert " ".join(cue.text for cue in cues).split() == plain
    assert {cue.voice for cue in cues} == {"Speaker 1", "Speaker 2"}
    transcript = json.loads(page.saved(tmp_path / "dialogue.json"))
    assert [word["text"] for part in transcript["segments"] for word in part["words"]] == plain
    assert transcript["duration"] == pytest.approx(soundfile.info(wav).duration, abs=0.01)


# Live captions


def test_captions_of_the_microphone(page: Page, gateway: Running, wav: Path, tmp_path: Path) -> None:
    opened(page, gateway)
    page.js(
        "window.seen = { finals: [], changed: 0, partials: new Set() };"
        "new MutationObserver(() => {"
        f"  const now = {SAID.format('live-script')};"
        "  if (seen.finals.some((said, at) => now[at] !== said)) seen.changed++;"
        "  seen.finals = now;"
        "  seen.partials.add(document.getElementById('live-partial').textContent);"
        "}).observe(document.getElementById('live'), { childList: true, subtree: true, characterData: true })"
    )
    page.key("c")
    page.wait("document.getElementById('record').dataset.state === 'on'")
    page.wait("document.getElementById('live-partial').textContent.length > 10")
    # Not at once: there are pauses, and no level is shown in them.
    page.wait(
        "getComputedStyle(document.querySelector('#meter span')).transform !== 'matrix(0, 0, 0, 1, 0, 0)'"
    )
    page.wait(f"document.getElementById('live-clock').textContent > '{LENGTH}'")
    page.key("c")
    page.wait("document.getElementById('record').dataset.state === 'idle'")
    assert jiwer.wer(TEXT, said(page, "live-script")) < 0.25
    seen = page.js("({ ...seen, partials: seen.partials.size })")
    assert seen["changed"] == 0, "finals never change"
    assert seen["partials"] > 20, "words appear as they are spoken"
    assert page.js("document.getElementById('said').textContent"), "screen readers are told"
    assert (
        len(
            page.js(
                "[...new Set([...document.querySelectorAll('#live .turn')].map((t) => t.dataset.colour))]"
            )
        )
        == 2
    )
    # What was heard can be heard again.
    watch_marks(page, "live-script")
    page.click("#live-script [data-at='4']")
    page.wait("marks.includes(4)")
    page.key("c")
    assert page.js("document.getElementById('again-dialog').open"), "unsaved captions are not thrown away"
    page.key("Escape")
    assert said(page, "live-script")


def test_captions_go_on_at_the_gateway_that_follows(
    browser: Browser, triton: Any, wav: Path, tmp_path: Path
) -> None:
    """The gateway is killed in the middle of a stream and another takes its port: no word is lost."""
    with browser.page(permissions=["audioCapture"]) as page:
        with running(tmp_path / "first", triton.url) as first:
            opened(page, first)
            page.js("document.getElementById('live-speakers').checked = false")
            page.js("document.getElementById('record').click()")
            page.wait("document.querySelectorAll('#live-script .turn').length > 0")
            first.process.kill()
            first.process.wait()
            port = first.port
        page.wait("document.getElementById('record-text').textContent === 'Connecting again'")
        with running(tmp_path / "second", triton.url, http_port=port):
            page.wait("document.getElementById('record-text').textContent === 'Stop'")
            page.wait(f"document.getElementById('live-clock').textContent >= '{LENGTH}'")
            page.js("document.getElementById('record').click()")
            page.wait("document.getElementById('record').dataset.state === 'idle'")
            assert jiwer.wer(TEXT, said(page, "live-script")) < 0.25


@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000, 96000])
def test_the_microphones_rate_does_not_matter(page: Page, gateway: Running, rate: int) -> None:
    """A tone of 1 kHz passes unchanged to 16 kHz, and one over its Nyquist frequency does not come back."""
    opened(page, gateway)
    heard = page.js(TONES.replace("RATE", str(rate)))
    length, level, kept, folded = (float(value) for value in heard)
    assert length == pytest.approx(16000, abs=64)
    assert level == pytest.approx(0.5, abs=0.01)
    assert kept == pytest.approx(0.5 * 32767, rel=0.02)
    assert folded < 0.01 * kept


TONES = """(async () => {
  const context = new OfflineAudioContext(1, RATE, RATE);
  await context.audioWorklet.addModule('page/capture.js');
  const node = new AudioWorkletNode(context, 'capture', { numberOfOutputs: 1 });
  const pieces = [];
  let peak = 0;
  const ended = new Promise((resolve) => {
    node.port.onmessage = ({ data }) => {
      if (data.ended) return resolve();
      pieces.push(data.samples);
      peak = Math.max(peak, data.peak);
    };
  });
  for (const hertz of RATE > 30000 ? [1000, 11000] : [1000]) {
    const tone = new OscillatorNode(context, { frequency: hertz });
    tone.connect(new GainNode(context, { gain: 0.5 })).connect(node);
    tone.start();
  }
  node.connect(context.destination);
  await context.startRendering();
  node.port.postMessage('end');
  await ended;
  const all = pieces.flatMap((piece) => [...piece]);
  const at = (hertz) => {
    let cosine = 0, sine = 0;
    const part = all.slice(2000, 14000);
    part.forEach((value, index) => {
      cosine += value * Math.cos(2 * Math.PI * hertz * index / 16000);
      sine += value * Math.sin(2 * Math.PI * hertz * index / 16000);
    });
    return 2 * Math.hypot(cosine, sine) / part.length;
  };
  return [all.length, peak, at(1000), at(5000)];
})()"""


# What goes wrong is told, with the fix


def test_a_microphone_that_is_refused(browser: Browser, gateway: Running) -> None:
    with browser.page() as page:
        page.call("Browser.setPermission", permission={"name": "microphone"}, setting="denied")
        opened(page, gateway)
        page.js("document.getElementById('record').click()")
        assert "The microphone is blocked. Allow it" in " ".join(page.wait(NOTICE).split())
        assert page.js("document.getElementById('record').dataset.state") == "idle"


def test_files_that_are_no_recordings(browser: Browser, gateway: Running, tmp_path: Path) -> None:
    noise, silence = tmp_path / "letter.wav", tmp_path / "silence.wav"
    noise.write_text("Dear Anna")
    soundfile.write(silence, [0.0] * 32000, 16000)
    with browser.page() as page:
        opened(page, gateway, "recording")
        page.choose("#file", noise)
        assert "letter.wav" in page.wait(NOTICE)
        page.choose("#file", silence)
        page.wait("document.getElementById('notice-what').textContent === 'Nobody says anything in it.'")
        assert not page.js(READER)


def test_a_server_that_is_away(browser: Browser, wav: Path, tmp_path: Path) -> None:
    with browser.page() as page:
        with running(tmp_path / "gateway", NOWHERE) as alone:
            page.go(f"{alone.url}/#server")
            page.wait("document.getElementById('pill').dataset.state === 'bad'")
            assert "Not ready" in page.text("#pill")
            assert NOWHERE in page.text("#server-sub")
            page.js("document.getElementById('tab-recording').click()")
            page.choose("#file", wav)
            assert "spark-speech" in page.wait(NOTICE), "how to mend it"
        page.js("document.getElementById('tab-server').click()")
        page.wait("document.getElementById('pill-text').textContent === 'Not reachable'")
        assert "The gateway does not answer" in page.text("#server-lead")


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(
    browser: Browser, triton: Any, wav: Path, tmp_path: Path
) -> None:
    hashes = json.dumps([hashlib.sha256(KEY.encode()).hexdigest()])
    with (
        running(tmp_path / "gateway", triton.url, api_key_hashes=hashes) as guarded,
        browser.page(permissions=["audioCapture"]) as page,
    ):
        page.go(f"{guarded.url}/")
        page.wait("document.getElementById('key-dialog').open")
        page.type("wrong")
        page.key("Enter")
        page.wait("sessionStorage.getItem('spark-speech.key') === 'wrong'")
        page.wait("document.getElementById('key-dialog').open")
        page.js("document.getElementById('key-input').select()")
        page.type(KEY)
        page.key("Enter")
        page.wait("document.getElementById('pill').dataset.state === 'good'")
        page.key("2")
        page.choose("#file", wav)
        page.wait(READER)
        page.key("c")
        page.wait("document.getElementById('live-partial').textContent.length > 5")
        page.key("c")
        assert page.js("JSON.stringify(localStorage) + document.cookie") == "{}"
        assert KEY in page.js("JSON.stringify(sessionStorage)")
        assert not any(KEY in url for url in page.requests), "addresses end up in logs"
        assert KEY not in guarded.log.read_text()


# For everybody


def test_nothing_comes_from_elsewhere(page: Page, gateway: Running, short: Path) -> None:
    read(page, gateway, short)
    own = gateway.url.partition("//")[2]
    hosts = {url.split("/")[2] for url in page.requests if not url.startswith(("blob:", "about:", "data:"))}
    assert hosts == {own}
    page.js("fetch('https://example.com/').catch(() => {})")
    assert any("Content Security Policy" in fault for fault in page.faults), "and nothing else may"
    page.faults.clear()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_accessibility(
    page: Page, gateway: Running, short: Path, axe: str, dark: bool, size: tuple[int, int]
) -> None:
    page.look(*size, dark=dark, calm=True, phone=size == PHONE)
    read(page, gateway, short)
    page.js(axe)
    for state in (
        "document.getElementById('tab-recording').click()",
        "document.getElementById('tab-live').click()",
        "document.getElementById('tab-server').click()",
        "document.getElementById('help').click()",
        "(document.getElementById('help-dialog').close(), document.getElementById('key-open').click())",
    ):
        page.js(state)
        found = page.js("axe.run().then(({ violations }) => violations)")
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == [], state


OUTSIDE = """[...document.querySelectorAll('header *, main *')]
  .filter((element) => !element.closest('.scroll, .hidden'))
  .filter((element) => {
    const { width, left, right } = element.getBoundingClientRect();
    return width && (left < -1 || right > WIDTH + 1);
  })
  .map((element) => element.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("width", [320, 390, 768, 1180])
def test_nothing_is_cut_off(page: Page, gateway: Running, short: Path, width: int) -> None:
    page.look(width, 700, phone=width < 500)
    read(page, gateway, short)
    for tab in ("live", "recording", "server"):
        page.js(f"document.getElementById('tab-{tab}').click()")
        assert page.js("document.documentElement.scrollWidth") <= width, tab
        outside = page.js(OUTSIDE.replace("WIDTH", str(width)))
        assert outside == [], tab


def test_who_wants_no_motion_gets_none(page: Page, gateway: Running, wav: Path) -> None:
    page.look(*DESKTOP, calm=True)
    opened(page, gateway)
    page.key("c")
    page.wait("document.getElementById('live-partial').textContent.length > 5")
    assert page.js("document.getAnimations().length") == 0
    page.look(*DESKTOP)
    page.wait("document.getAnimations().length > 0")  # the others see that it listens


def test_light_and_dark(page: Page, gateway: Running) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    opened(page, gateway)
    light = page.js(paper)
    page.look(*DESKTOP, dark=True)
    dark = page.js(paper)
    assert light != dark
    page.key("d")
    assert page.js(paper) == light
    page.go(f"{gateway.url}/")
    assert page.js(paper) == light, "the choice is kept"
    page.key("d")
    assert page.js(paper) == dark


def test_the_page_is_fetched_once(page: Page, gateway: Running) -> None:
    opened(page, gateway)
    page.call("Page.reload")
    page.wait("performance.getEntriesByType('navigation')[0]?.type === 'reload'")
    page.wait("document.getElementById('pill')?.dataset.state === 'good'")
    sizes = page.js(
        "performance.getEntriesByType('resource').filter((each) => each.name.includes('/page/'))"
        ".map((each) => [each.responseStatus, each.encodedBodySize, each.transferSize])"
    )
    assert len(sizes) > 8
    assert all(transferred <= 300 for _, _, transferred in sizes), "headers only"


def test_the_server_is_shown(page: Page, gateway: Running, short: Path) -> None:
    read(page, gateway, short)
    page.key("3")
    page.wait("document.getElementById('figures').innerText.includes('× real time')")
    rows = page.js(
        "[...document.querySelectorAll('#models tbody tr')].map((row) => row.innerText.split('\\t'))"
    )
    assert {row[0]: row[-1].strip() for row in rows} == dict.fromkeys(MODELS, "ready")
