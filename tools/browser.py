"""The demos in a real browser: starts `mtmg demo`, plays with all of them, and compares them with the models.

    python tools/browser.py [--run runs/quickstart] [--shots FOLDER]   # a folder for screenshots; none are kept without

Without --run it does what a newcomer does: it calls `mtmg demo` in an empty folder, which makes a small run first. It
needs a Chromium or Chrome of the system, and fails if there is none. It ends with a line 'N passed, N failed'."""

import argparse
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
import io
import os
from pathlib import Path
import re
import shutil
import signal
import socket
from statistics import median
import subprocess
import sys
import tempfile
import time
import traceback
from urllib.error import HTTPError
from urllib.request import urlopen

from playwright.sync_api import Page, sync_playwright

START_LIMIT = 600  # seconds until the server answers: it may have to make a small run first
PAGE_LIMIT = 180_000  # ms until the page is there: its kernel imports torch
ANSWER_LIMIT = 30_000  # ms for an answer to change
FAST = 0.3  # seconds from a click to another answer, half of the times
FIRST = 6  # seconds from opening the page to its first answer …
IMPORTS = 4  # … or as many bare imports of torch, where one takes more than 1.5 s
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
FLAGS = [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--no-first-run',
    '--disable-quic',
    '--disable-sync',
    '--disable-background-networking',
    '--disable-component-update',
]  # it has nothing to ask of the network
EVIL = '<img src=evil.png onerror="document.title=1;alert(1)">'  # runs where it is not escaped


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@contextmanager
def served(run: str | None, folder: str):
    "The app's address while the block runs. The server and its kernels are a process group, which ends with the block."
    port = free_port()
    command = [
        sys.executable,
        '-m',
        'mtmg.cli.entry',
        'demo',
        '--port',
        str(port),
        *([str(Path(run).resolve())] if run else []),
    ]
    server = subprocess.Popen(
        command, cwd=folder, env=os.environ | {'MTMG_CACHE': folder}, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        end = time.time() + START_LIMIT
        while True:
            if server.poll() is not None:
                raise RuntimeError(f'the server ended with status {server.returncode}')
            try:
                with socket.create_connection(('127.0.0.1', port), 1):
                    break
            except OSError:
                if time.time() > end:
                    raise TimeoutError(f'no server within {START_LIMIT} s') from None
                time.sleep(0.2)
        yield f'http://localhost:{port}/'
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)  # Voila ends its kernels
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(server.pid, signal.SIGKILL)  # whatever is left
        except ProcessLookupError:
            pass


def importing() -> float:
    "Seconds of a process that imports torch and does nothing: how fast this machine is now."
    begun = time.perf_counter()
    subprocess.run([sys.executable, '-c', 'import torch'], check=True)
    return time.perf_counter() - begun


def status(url: str) -> int:
    "What a server answers to a GET."
    try:
        with urlopen(url, timeout=10) as answer:
            return answer.status
    except HTTPError as error:
        return error.code


def told(run: str | None, folder: str):
    "The models that the server shows, to ask the states themselves."
    from mtmg.demo import demo_models

    return demo_models(run or next(Path(folder).glob('demo/run-*')), progress=False)


# ---- what is uploaded ----

S2 = 'B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12'.split()


def tif(array, names=None, **options) -> bytes:
    "A tif of (C, H, W), without georeference."
    import rasterio

    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver='GTiff', width=array.shape[2], height=array.shape[1], count=len(array), dtype=array.dtype, **options
        ) as file:
            file.write(array)
            if names:
                file.descriptions = names
        return memory.read()


def sparse_tif(side: int) -> bytes:
    "A tif that says it is huge, in a few kilobytes."
    import rasterio

    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver='GTiff',
            width=side,
            height=side,
            count=1,
            dtype='uint8',
            tiled=True,
            blockxsize=4096,
            blockysize=4096,
            SPARSE_OK=True,
        ):
            pass
        return memory.read()


def photo(kind: str) -> bytes:
    from PIL import Image

    Image.effect_noise((80, 60), 50).convert('RGB').save(out := io.BytesIO(), kind)
    return out.getvalue()


# ---- the visitor ----


class Player:
    "A page with the demos, and the little that a visitor does."

    def __init__(self, page: Page, shots: Path | None):
        self.page, self.shots, self.problems, self.counts = page, shots, [], [0, 0]
        page.on(
            'console',
            lambda m: m.type == 'error' and self.problems.append(f'console: {m.text} ({m.location.get("url", "")})'),
        )
        self.kernels = []
        page.on('websocket', lambda w: self.kernels.extend(re.findall('/api/kernels/([^/]+)/', w.url)))
        page.on('pageerror', lambda e: self.problems.append(f'page: {e}'))
        page.on('response', lambda r: r.status >= 400 and self.problems.append(f'{r.status}: {r.url}'))
        page.on(
            'request',
            lambda r: (
                r.url.startswith(('http://localhost:', 'ws://localhost:', 'data:', 'blob:', 'file:'))
                or self.problems.append(f'asks the network for {r.url}')
            ),
        )
        page.on('dialog', lambda d: (self.problems.append(f'a script ran: {d.message}'), d.dismiss()))

    @contextmanager
    def step(self, name: str):
        "One thing to do and to see; a failure is counted, and the next step tried."
        start = time.perf_counter()
        try:
            yield
        except Exception:
            self.counts[1] += 1
            print(f'  FAILED {name}\n{traceback.format_exc()[-1500:]}', flush=True)
            self.shot(f'failed-{name}')
        else:
            self.counts[0] += 1
            print(f'  ok {time.perf_counter() - start:5.1f} s  {name}', flush=True)

    @property
    def tab(self):
        return self.page.locator('.mtmg .mtmg:visible')

    def text(self, part: str) -> str:
        return self.tab.locator(part).first.inner_text()

    def html(self, part: str) -> str:
        return self.tab.locator(part).first.inner_html()

    def thumbs(self):
        return self.tab.locator('button.mtmg-thumb:visible')

    def scenes(self) -> list:  # the numbers of the thumbnails in view
        return [int(re.match(r'scene (\d+)', t)[1]) for t in self.thumbs().evaluate_all('all => all.map(e => e.title)')]

    def open_tab(self, title: str):
        self.page.get_by_role('tab', name=title, exact=True).click()
        self.page.locator('.mtmg .mtmg:visible', has=self.page.locator('h3', has_text=title)).wait_for(
            timeout=ANSWER_LIMIT
        )

    def shot(self, name: str):
        if not self.shots:
            return
        self.page.wait_for_timeout(400)
        try:
            self.page.screenshot(path=self.shots / f'{name}.png', full_page=True)
        except Exception as problem:
            print(f'  no screenshot {name}: {problem}', flush=True)

    def until(self, true, what: str) -> float:
        "The seconds until something is true."
        start = time.perf_counter()
        while not true():
            if time.perf_counter() - start > ANSWER_LIMIT / 1000:
                raise AssertionError(what() if callable(what) else what)
            self.page.wait_for_timeout(10)
        return time.perf_counter() - start

    def changed(self, part: str, act) -> float:
        "Do something; the seconds until `part` of the demo shows something else."
        before, start = self.html(part), time.perf_counter()
        act()
        self.until(lambda: self.html(part) != before, f'{part} did not change')
        return time.perf_counter() - start

    def field(self, label: str):
        "The field beside a label."
        return self.tab.locator('.widget-inline-hbox', has=self.page.locator(f'label:text-is("{label}")')).first

    def fill(self, label: str, text: str):
        box = self.field(label).locator('textarea, input').first
        # at once, as a paste of 10,000 lines through the browser's editing would take it a minute
        box.evaluate(
            "(e, text) => { e.value = text; for (const kind of ['input', 'change']) "
            "e.dispatchEvent(new Event(kind, {bubbles: true})); }",
            text,
        )

    def choose(self, label: str, option: str):
        self.field(label).locator('select').select_option(label=option)

    def slide(self, steps: int, label: str):
        handle = self.field(label).locator('.noUi-handle').first
        handle.focus()
        for _ in range(abs(steps)):
            handle.press('ArrowRight' if steps > 0 else 'ArrowLeft')

    def upload(self, name: str, content: bytes):
        with self.page.expect_file_chooser(timeout=ANSWER_LIMIT) as chooser:
            self.tab.get_by_role('button', name=re.compile('upload a scene')).click()
        chooser.value.set_files({'name': name, 'mimeType': 'application/octet-stream', 'buffer': content})

    def expect(self, part: str, pattern: str):
        self.tab.locator(part, has_text=re.compile(pattern)).first.wait_for(timeout=ANSWER_LIMIT)

    def refused(self, pattern: str):
        "An error of one line."
        self.expect('.mtmg-error', pattern)
        assert self.tab.locator('.mtmg-error').count() == 1 and '\n' not in self.text('.mtmg-error'), self.text(
            '.mtmg-error'
        )

    def accepted(self):
        self.tab.locator('.mtmg-error').wait_for(state='detached', timeout=ANSWER_LIMIT)

    def number(self, row: str) -> float:
        "The number of one row of the table."
        return float(
            re.search(
                r'[−-]?[\d.]+', self.tab.locator('.mtmg-numbers tr', has_text=row).locator('td').nth(1).inner_text()
            )[0].replace('−', '-')
        )

    def answers(self) -> dict:
        "{model: {class: percent}} as the page shows it."
        script = """e => Object.fromEntries([...e.children].map(m => [m.querySelector('b').innerText,
            Object.fromEntries([...m.querySelectorAll('.mtmg-bar')].map(r =>
              [r.title, parseInt(r.querySelector('em').innerText)]))]))"""
        return self.tab.locator('.mtmg-answers').first.evaluate(script)

    def agrees(self, state):
        "Wait until the page shows what a state answers, on the percent."
        assert not state.error, state.error
        self.shows(state.answers)

    def shows(self, answers: dict):
        "Wait until the page shows these answers, on the percent."
        meant = {m: {name: 100 * p for name, p in own} for m, own in answers.items() if not isinstance(own, str)}

        def same():
            shown = {model: own for model, own in self.answers().items() if own}
            return shown.keys() == meant.keys() and all(
                shown[m].keys() == meant[m].keys() and all(abs(shown[m][c] - meant[m][c]) <= 0.6 for c in meant[m])
                for m in meant
            )

        self.until(same, lambda: f'shown {self.answers()}, meant {meant}')


def zero_shot(p: Player, models):
    "choose a scene, edit classes and prompts, change the composite, upload"
    from mtmg.demo import ZeroShotState

    state = ZeroShotState(models)
    with p.step('three models side by side, as the models answer'):
        p.open_tab('Zero-shot')
        p.agrees(state)
        missing = p.thumbs().evaluate_all(
            "all => all.filter(e => !getComputedStyle(e).backgroundImage.startsWith('url')).length"
        )
        assert missing == 0, f'{missing} thumbnails without a picture'
        p.shot('1-zero-shot')
    with p.step('choose scenes by their thumbnails'):
        numbers, seconds = p.scenes(), []
        for place in (7, 2, 11, 16, 5):
            seconds.append(p.changed('.mtmg-answers', lambda: p.thumbs().nth(place).click()))
            state.look_at(numbers[place])
            p.agrees(state)
    with p.step('class names, with HTML among them'):
        for classes in ('open water\nwoodland', 'open water\nwoodland\nmeadow', f'open water\nwoodland\n{EVIL}'):
            seconds.append(p.changed('.mtmg-answers', lambda: p.fill('classes', classes)))
            state.classes = classes
            p.agrees(state)
        assert p.tab.locator('.mtmg-answers img').count() == 0, 'typed HTML must stay text'
    with p.step('other prompts, other answers'):
        seconds.append(p.changed('.mtmg-answers', lambda: p.fill('prompts', 'an aerial view of {}')))
        state.templates = 'an aerial view of {}'
        p.agrees(state)
    with p.step('another composite'):
        seconds.append(p.changed('.mtmg-answers', lambda: p.choose('composite', 'false colour (NIR)')))
        state.recipe = 'false_color'
        p.agrees(state)
        p.shot('2-false-colour')
    with p.step(f'from the click to the other answer in less than {1000 * FAST:.0f} ms'):
        print(f'     {", ".join(f"{1000 * s:.0f}" for s in seconds)} ms; median {1000 * median(seconds):.0f} ms')
        assert median(seconds) < FAST
    before = p.answers()
    for name, label, text, problem in (
        ('an empty class list', 'classes', ' \n', 'no class names'),
        ('10,000 class names', 'classes', '\n'.join(f'class {i}' for i in range(10_000)), '10,000 prompts'),
        ('a class name of 5,000 letters', 'classes', 'x' * 5000, '5,000 characters'),
        ('a prompt without a place for the class', 'prompts', 'an aerial view', "exactly one '{}'"),
        ('a prompt that would like to be executed', 'prompts', 'a {0.__class__}', "exactly one '{}'"),
        ('a lone brace', 'prompts', 'a {', "exactly one '{}'"),
    ):
        with p.step(f'{name}: one line, and the last answer dimmed'):
            kept = p.field(label).locator('textarea').input_value()
            p.fill(label, text)
            p.refused(problem)
            assert p.answers() == before and p.tab.locator('.mtmg-stale .mtmg-answers').count() == 1
            if label == 'prompts' and text == 'an aerial view':
                p.shot('3-bad-prompt')
            p.fill(label, kept)
            p.accepted()
    with p.step('other alphabets, braces and dollars'):
        p.fill('classes', 'forêt\n森林\nriver $x^2$ {0}')
        state.classes = 'forêt\n森林\nriver $x^2$ {0}'
        p.agrees(state)
    import numpy as np

    ramp = np.stack([np.full((64, 64), 300 + 200 * i, np.uint16) for i in range(13)])
    for name, content, problem in (
        ('broken.tif', b'II*\0' + b'\1' * 99, r'broken\.tif'),
        ('half.tif', tif(ramp, S2)[:20_000], r'half\.tif'),
        ('huge.tif', sparse_tif(50_000), '50,000 x 50,000 pixels'),
        ('page.tif', b'<html>', 'by its first bytes'),
        ('unnamed.tif', tif(ramp), '13 bands without names'),
    ):
        with p.step(f'{name} is refused in one line'):
            p.upload(name, content)
            p.refused(problem)
    with p.step('a tif of 13 bands: all three answer'):
        p.upload('bands.tif', tif(ramp, S2))
        state.upload('bands.tif', tif(ramp, S2))
        p.expect('.mtmg-line', r'bands\.tif: 13 bands, 64 × 64')
        p.agrees(state)
        assert p.tab.locator('.mtmg-none').count() == 0
    with p.step('a photo: the student says what it lacks'):
        p.upload('photo.jpg', jpg := photo('JPEG'))
        state.upload('photo.jpg', jpg)
        p.expect('.mtmg-line', r'photo\.jpg: 3 bands, 60 × 80')
        p.agrees(state)
        p.expect('.mtmg-none', 'no answer')
        p.shot('4-upload')
    with p.step('back to a scene'):
        scene = p.scenes()[3]
        p.thumbs().nth(3).click()
        state.look_at(scene)
        p.expect('.mtmg-line', f'scene {scene}: ')
        p.agrees(state)


def bands(p: Player, models):
    "switch bands off and on; the answers follow"
    from mtmg.demo import BandsState

    state = BandsState(models)
    box = lambda name: p.tab.locator('.widget-checkbox', has_text=re.compile(rf'\b{name}\b')).locator('input')

    def agrees():
        state_of = {
            f'student, {len(state.on)} of {len(models.scenes.bands)} bands' if m == 'student' else f'{m}, RGB': own
            for m, own in state.answers.items()
        }
        p.shows(state_of)

    with p.step('all bands: two models side by side'):
        p.open_tab('Bands')
        agrees()
        p.shot('17-bands')
    with p.step('a band is switched off, by mouse and by keyboard'):
        seconds = [p.changed('.mtmg-answers', lambda: box('B08').click())]
        state.switch('B08', False)
        agrees()
        box('B8A').focus()
        seconds.append(p.changed('.mtmg-answers', lambda: p.page.keyboard.press('Space')))
        state.switch('B8A', False)
        agrees()
        assert p.tab.locator('svg.mtmg-spectrum circle[fill=none]').count() == 2, 'two bands are off in the spectrum'
        print(f'     {", ".join(f"{1000 * s:.0f}" for s in seconds)} ms')
    with p.step('a set of bands with one click'):
        p.tab.get_by_role('button', name='red, green, blue').click()
        state.on = ('B02', 'B03', 'B04')
        agrees()
        p.shot('18-bands-rgb')
    with p.step('right answers over all scenes'):
        p.tab.get_by_role('button', name=re.compile('count over all')).click()
        state.count()
        p.expect('.mtmg-numbers', f'{100 * state.counted["student"]:.0f} %')
    with p.step('all bands off: one line, and the last answer dimmed'):
        for name in state.on:
            box(name).click()
        p.refused('all bands are off')
        assert p.tab.locator('.mtmg-stale .mtmg-answers').count() == 1
        p.tab.get_by_role('button', name='all bands').click()
        p.accepted()


def alpha(p: Player, models):
    "move alpha, jump to the chosen one, choose a scene"
    from mtmg.demo import AlphaState

    state = AlphaState(models)

    def agrees():
        p.agrees(state)
        for task, score in state.scores.items():
            p.until(
                lambda: abs(p.number(task) - 100 * score) < 0.06,
                lambda: f'{task}: {p.number(task)} is not {100 * score}',
            )

    with p.step('the curve and its numbers, as the models score'):
        p.open_tab('Alpha')
        agrees()
        p.shot('5-alpha')
    with p.step('slide alpha: answers, numbers and line follow'):
        line = p.html('.mtmg-top')
        steps = 3 if state.alpha < 0.5 else -3
        p.slide(steps, 'α')
        state.alpha = round(state.alpha + 0.1 * steps, 1)
        agrees()
        assert p.html('.mtmg-top') != line
        p.shot('6-alpha-moved')
    with p.step('jump to the chosen alpha'):
        p.tab.get_by_role('button', name=re.compile('chosen')).click()
        state.alpha = state.chosen
        agrees()
        p.until(lambda: p.html('.mtmg-top') == line, 'the line is not where it was')
    if len(models.ends) > 1:
        with p.step('the other way to fine-tune: another line, another sentence'):
            for name in reversed(models.ends):
                state.set(line=name, alpha=models.ends[name][1])
                p.choose('fine-tuning', {'plain': 'plain', 'default': 'default, held back'}[name])
                agrees()
                p.expect('.mtmg-line', re.escape(state.sentence[:40]))
                p.shot(f'6-alpha-{name}')
    with p.step('another scene'):
        state.scene = p.scenes()[4]
        p.thumbs().nth(4).click()
        agrees()
    with p.step('deal other scenes'):
        dealt = p.scenes()
        p.tab.get_by_role('button', name='other scenes').click()
        p.until(lambda: not set(p.scenes()) & set(dealt), 'the same scenes')


def gap(p: Player, models):
    "shift, colour, click on the map, walk to a neighbour"
    from mtmg.demo import GapState

    state = GapState(models)
    scene = lambda: p.text('.mtmg-side b')

    def agrees():
        assert not state.error, state.error
        p.until(
            lambda: abs(p.number('centroid gap') - state.measures['centroid_gap']) < 6e-4,
            lambda: f'gap {p.number("centroid gap")} is not {state.measures["centroid_gap"]}',
        )
        p.until(
            lambda: p.scenes() == [i for own in state.neighbours.values() for i, _ in own],
            lambda: f'neighbours {p.scenes()} are not {state.neighbours}',
        )

    with p.step('the map, its numbers and neighbours'):
        p.open_tab('Modality gap')
        agrees()
        assert p.tab.locator('.mtmg-over svg circle').count() > 100, 'points on the map'
        p.shot('7-gap')
    with p.step('CLIP to captions'):
        p.choose('from', 'RGB, CLIP')
        p.choose('to', 'captions, text tower')
        state.set(x='RGB, CLIP', y='captions, text tower')
        p.expect('.mtmg-numbers', 'CLIP → captions')
        agrees()
    with p.step('shift along the gap: it closes'):
        wide, retrieved, drawn = p.number('centroid gap'), p.number('CLIP → captions'), p.html('.mtmg-over svg')
        p.slide(10, 'shift')
        state.amount = 1.0
        agrees()
        assert p.number('centroid gap') < 0.3 * wide and p.html('.mtmg-over svg') != drawn
        print(f'     gap {wide} -> {p.number("centroid gap")}, R@1 {retrieved} -> {p.number("CLIP → captions")} %')
        p.shot('8-gap-shifted')
    with p.step('click on a point'):
        button = p.tab.locator('.mtmg-over button[title^="scene 7:"]').first
        box = button.bounding_box()
        assert box['width'] > 5, 'a point to click on'
        button.dispatch_event('click')  # another point may lie over it
        state.point = 7
        p.until(lambda: scene() == 'scene 7', 'the point was not chosen')
        agrees()
    with p.step('walk to a neighbour'):
        state.point = p.scenes()[2]
        p.thumbs().nth(2).click()
        p.until(lambda: scene() == f'scene {state.point}', 'the neighbour was not chosen')
        agrees()
    with p.step('colour by class'):
        p.choose('colour', 'class')
        for name in models.scenes.labelset.classnames:
            p.expect('.mtmg-legend', name)
        p.shot('9-gap-classes')
    with p.step('two times the same modality is refused'):
        p.choose('to', 'RGB, CLIP')
        p.refused('choose two')
        p.choose('to', 'RGB, patched CLIP')
        p.accepted()


def retrieval(p: Player, models):
    "query by text, by a scene in RGB and in all bands; change the gallery"
    from mtmg.demo import RetrievalState

    state = RetrievalState(models)
    found = lambda: p.scenes()[-len(state.found) :]

    def agrees():
        assert not state.error, state.error
        p.until(lambda: found() == [i for i, _ in state.found], lambda: f'found {found()}, meant {state.found}')

    with p.step('query by text'):
        p.open_tab('Retrieval')
        agrees()
        before = found()
        p.fill('text', 'a satellite photo of a forest')
        state.set(text='a satellite photo of a forest')
        p.expect('b', 'a satellite photo of a forest')
        agrees()
        assert found() != before
        p.shot('10-retrieval-text')
    multispectral = next(m for m in state.modalities if 'bands' in m)
    for by, gallery in (('RGB, patched CLIP', multispectral), (multispectral, 'RGB, CLIP')):
        with p.step(f'{by} asks {gallery}'):
            p.choose('search in', gallery)
            p.choose('query', f'scene: {by}')
            scene = p.scenes()[3]
            p.thumbs().nth(3).click()
            state.set(by=by, gallery=gallery, scene=scene)
            p.expect('b', f'at place {state.rank} of')
            agrees()
            p.shot(f'11-retrieval-{"rgb" if by != multispectral else "ms"}')
    with p.step('a text with HTML'):
        p.fill('text', f'a river {EVIL}')
        state.set(by='text', text=f'a river {EVIL}')
        p.expect('b', re.escape(EVIL))
        agrees()
    with p.step('a text too long is refused'):
        p.fill('text', 'very ' * 100)
        p.refused('at most 200')


def explorer(p: Player, file: Path):
    "the joint space as a file from the disk: click, lasso, colours, shift, without a network"
    page = p.page
    page.goto(file.resolve().as_uri())
    data = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    at = lambda m, i: page.evaluate(f'window.mtmg.screen({m}, {i})')
    box = page.locator('canvas').bounding_box()
    place = lambda m, i: (box['x'] + at(m, i)[0], box['y'] + at(m, i)[1])
    chosen = lambda: page.evaluate('window.mtmg.state()')
    with p.step('a click chooses a scene and shows its neighbours in every modality'):
        page.mouse.click(*place(0, 3))
        said = chosen()
        near = min(range(data['n']), key=lambda i: sum((a - b) ** 2 for a, b in zip(at(0, i), at(0, 3), strict=True)))
        assert said['point'] >= 0 and said['picked'] == [], said
        assert (
            said['point'] in (3, near)
            or sum((a - b) ** 2 for a, b in zip(at(0, 3), at(0, said['point']), strict=True)) < 600
        )
        cells = page.locator('#neighbours td').count()
        assert cells == len(data['modalities']) ** 2, f'{cells} cells of neighbours'
        assert page.locator('#spectrum svg').count() == int('spectra' in data)
        p.shot('12-explorer-click')
    with p.step('a lasso around everything selects every scene'):
        x, y, w, h = (box[k] for k in ('x', 'y', 'width', 'height'))
        corners = [(x + 2, y + 2), (x + w - 2, y + 2), (x + w - 2, y + h - 2), (x + 2, y + h - 2)]
        page.mouse.move(*corners[0])
        page.mouse.down()
        for corner in (*corners[1:], corners[0]):
            page.mouse.move(*corner, steps=4)
        page.mouse.up()
        assert len(chosen()['picked']) == data['n'], f'{len(chosen()["picked"])} of {data["n"]} scenes'
        assert page.locator('#chosen button').count() == min(60, data['n'])
        p.shot('13-explorer-lasso')
    with p.step('a thumbnail chooses its scene'):
        page.locator('#chosen button').nth(2).click()
        assert (
            chosen()['point'] >= 0 and f'scene {data["ids"][chosen()["point"]]}' in page.locator('#said').inner_text()
        )
    for color in page.locator('#color option').evaluate_all('all => all.map(e => e.value)'):
        with p.step(f'coloured by {color}'):
            before = page.evaluate("document.getElementById('canvas').toDataURL()")
            page.locator('#color').select_option(color)
            assert color == 'modality' or page.evaluate("document.getElementById('canvas').toDataURL()") != before
            assert page.locator('#legend span').count() > 1
    if len(data['modalities']) > 1:
        with p.step('the shift moves the points'):
            page.locator('#map').select_option(label='PCA')
            before = at(1, 0)
            page.locator('#frame').evaluate("e => { e.value = e.max; e.dispatchEvent(new Event('input')) }")
            assert at(1, 0) != before and 'shift along the gap: 1' in page.locator('#frameof').inner_text()
    for width in WIDTHS:
        with p.step(f'{width} pixels wide, nothing is cut'):
            page.set_viewport_size({'width': width, 'height': 900})
            page.wait_for_timeout(300)
            fits(page)
            p.shot(f'14-explorer-{width}')
    page.set_viewport_size({'width': 1200, 'height': 1000})


def report(p: Player, file: Path):
    "the report of a run from the disk, wide, narrow and printed"
    page = p.page
    page.goto(file.resolve().as_uri())
    for width in WIDTHS:
        with p.step(f'the report at {width} pixels'):
            page.set_viewport_size({'width': width, 'height': 1000})
            page.wait_for_timeout(200)
            fits(page)
            assert page.locator('.answer p').count() >= 1 and page.locator('h2').count() >= 3
            p.shot(f'15-report-{width}')
    with p.step('the report on paper'):
        paper = page.pdf(format='A4')
        assert len(paper) > 10_000
        if p.shots:
            (p.shots / 'report.pdf').write_bytes(paper)
    page.set_viewport_size({'width': 1200, 'height': 1000})


def folder_pages(run: str | None, folder: str) -> list:
    "(what to do, page) of the pages that a run has; for a small run the joint space is written here"
    found = (
        [(act, Path(run) / name) for act, name in ((explorer, 'explore.html'), (report, 'report.html'))] if run else []
    )
    found = [(act, file) for act, file in found if file.is_file()]
    if not any(act is explorer for act, _ in found):
        from mtmg.demo import explore

        models = told(run, folder)
        explore(
            models.embeddings,
            Path(folder) / 'explore.html',
            models.scenes,
            modalities=list(models.embeddings.features)[1:3],
        )
        found.append((explorer, Path(folder) / 'explore.html'))
    return found


def joint(p: Player, models):
    "the joint space by mouse: a click, a lasso, a thumbnail"
    from importlib.util import find_spec

    with p.step('the joint space stands'):
        p.open_tab('Joint space')
        p.tab.locator('canvas, iframe').first.wait_for(timeout=ANSWER_LIMIT)
        p.page.wait_for_timeout(1500)  # the points are drawn by the graphics card, or in its place
        p.shot('19-joint')
    if find_spec('jscatter') is None:
        return  # the page of `explore`, which is tried below
    said = lambda: p.text('b')
    with p.step('a lasso around the middle of the map selects scenes'):
        box = p.tab.locator('canvas').first.bounding_box()
        x, y, w, h = (box[k] for k in ('x', 'y', 'width', 'height'))
        corners = [(x + w * a, y + h * b) for a, b in ((0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8), (0.2, 0.2))]
        p.tab.get_by_role('button', name=re.compile('lasso', re.I)).first.click()
        p.page.mouse.move(*corners[0])
        p.page.mouse.down()
        for corner in corners[1:]:
            p.page.mouse.move(*corner, steps=12)
        p.page.mouse.up()
        p.until(lambda: re.match(r'[\d,]+ scenes', said()), lambda: f'nothing was selected: {said()}')
        print(f'     {said()}')
        p.until(lambda: p.thumbs().count() == 24, lambda: f'{p.thumbs().count()} thumbnails')
        p.shot('20-joint-lasso')
    with p.step('a thumbnail chooses its scene, with its neighbours'):
        p.thumbs().nth(2).click()
        p.until(lambda: re.match(r'scene \d+', said()), lambda: f'no scene was chosen: {said()}')
        p.expect('.mtmg-line', 'nearest to its')
        p.shot('21-joint-scene')


WIDTHS = (400, 768, 1024, 1280, 1600)
CUT = """() => {
  const seen = e => e.getClientRects().length > 0 && e.getBoundingClientRect().width > 1;
  const rolling = e => { for (let p = e.parentElement; p; p = p.parentElement) // a figure in a box of its own to roll
    if (/auto|scroll/.test(getComputedStyle(p).overflowX) && p.scrollWidth > p.clientWidth && p.matches('.wide'))
      return true; return false };
  const name = e => `${e.tagName.toLowerCase()} '${(e.innerText || e.title || e.className.baseVal || e.className || '')
    .toString().trim().slice(0, 40)}'`;
  const off = [...document.querySelectorAll('button, input, select, textarea, img, canvas, label, .lm-TabBar-tab')]
    .filter(e => seen(e) && !rolling(e))
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1
      || (e.matches('label, .lm-TabBar-tabLabel') && e.scrollWidth > e.clientWidth + 2 && e.clientWidth > 0));
  const rolls = [...document.querySelectorAll('.mtmg, .jupyter-widget-TabPanel-tabContents')]
    .filter(e => seen(e) && e.scrollWidth > e.clientWidth + 4);
  return [document.documentElement.scrollWidth - innerWidth, ...off.map(name), ...rolls.map(name)] }"""


def fits(page):
    "Nothing is wider than the window, and no control is cut."
    wide, *cut = page.evaluate(CUT)
    width = page.viewport_size['width']
    assert wide <= 0 and not cut, f'at {width} pixels: {wide} too wide, cut: {", ".join(cut[:5])}'


def sizes(p: Player, models):
    "the demo from a telephone to a large screen"
    for title in p.page.get_by_role('tab').all_inner_texts():
        with p.step(f'{title} at {", ".join(map(str, WIDTHS))} pixels: nothing is cut'):
            p.open_tab(title)
            for width in WIDTHS:
                p.page.set_viewport_size({'width': width, 'height': 900})
                p.page.wait_for_timeout(300)
                p.shot(f'16-{title}-{width}')
                fits(p.page)
    p.page.set_viewport_size({'width': 1200, 'height': 1000})


def page_is_fast(page, address):
    "The best of three openings counts, as other work on this machine only ever adds time."
    tried = []
    for _ in range(3):
        begun = time.perf_counter()
        page.goto(address, timeout=PAGE_LIMIT, wait_until='commit')
        page.locator('.mtmg-answers').first.wait_for(timeout=PAGE_LIMIT)
        tried.append((time.perf_counter() - begun, importing()))
        print(f'     {tried[-1][0]:.1f} s, beside a bare import of torch in {tried[-1][1]:.1f} s')
        if tried[-1][0] < max(FIRST, IMPORTS * tried[-1][1]):
            return
    raise AssertionError(f'{", ".join(f"{page:.1f} s beside {bare:.1f} s" for page, bare in tried)}')


def main() -> int:
    "Play; the exit status."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--run', help='folder of mtmg quickstart or mtmg run; by default a small run is made')
    parser.add_argument('--shots', type=Path, help='folder for screenshots')
    args = parser.parse_args()
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        print(
            f'no browser: none of {", ".join(BROWSERS)} is installed (on Debian: apt-get install chromium)'
            '\n\n0 passed, 1 failed'
        )
        return 1
    if args.shots:
        args.shots.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # whoever stops this stops the server too
    counts, start = [0, 1], time.perf_counter()
    try:
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
            served(args.run, folder) as address,
            sync_playwright() as playwright,
            ThreadPoolExecutor() as pool,
        ):
            print(f'the server answers after {time.perf_counter() - start:.1f} s', flush=True)
            browser = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
            page = browser.new_page(viewport={'width': 1200, 'height': 1000})
            player = Player(page, args.shots)
            with player.step('open the app'):
                page.goto(address, timeout=PAGE_LIMIT, wait_until='commit')
                page.locator('.mtmg-answers').first.wait_for(timeout=PAGE_LIMIT)
            models = pool.submit(told, args.run, folder)
            models.exception()  # waits until they are read, so that the page is timed on a quiet machine
            with player.step(f'a page that is opened again answers within {FIRST} s, or {IMPORTS} imports of torch'):
                page_is_fast(page, address)
            title = page.title()
            own = (
                args.run and (Path(args.run) / 'scenes.npz').is_file()
            )  # its classes and scenes are not those of the steps
            for act in (sizes,) if own else (zero_shot, bands, alpha, gap, joint, retrieval, sizes):
                print(f'{act.__name__}: {act.__doc__}', flush=True)
                try:
                    act(player, models.result())
                except Exception:  # between two steps
                    player.counts[1] += 1
                    traceback.print_exc()
            after = page.title()  # of the app, before other pages are opened
            with player.step('the kernel ends when its page is left'):
                kernel = f'{address}api/kernels/{player.kernels[-1]}'
                assert status(kernel) == 200, f'{kernel} is not there'
                page.goto('about:blank')
                player.until(lambda: status(kernel) == 404, f'{kernel} is still there')
            pages = folder_pages(args.run, folder)
            for act, file in pages:
                print(f'{act.__name__}: {act.__doc__}', flush=True)
                try:
                    act(player, file)
                except Exception:
                    player.counts[1] += 1
                    traceback.print_exc()
            with player.step('nothing typed was run, nothing was asked of the network, and the console is clean'):
                assert after == title, 'a script ran'
                assert not player.problems, '\n'.join(player.problems)
            browser.close()
            counts = player.counts
    except Exception:
        traceback.print_exc()
    print(f'{time.perf_counter() - start:.0f} s\n\n{counts[0]} passed, {counts[1]} failed', flush=True)
    return int(counts[1] > 0)


if __name__ == '__main__':
    sys.exit(main())
