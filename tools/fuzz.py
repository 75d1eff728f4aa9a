"""Damaged files of every format that mtmg reads: each is read as it was, or refused in one line that names the file.

python tools/fuzz.py                    a short round over all formats
python tools/fuzz.py --seconds 600      a longer one
python tools/fuzz.py --seed 7 tar json  another round, of some formats

A format whose files carry checksums must never give other values than were written without a warning that names the
file. One without (pictures, tif, json that a person may edit) may give others, of the same kind. Inputs that fail are
kept in --keep, with what was raised.
"""

import argparse
import contextlib
from dataclasses import dataclass
import io
import json
import logging
from pathlib import Path
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from typing import Callable
import warnings

import numpy as np

DOCUMENTED = (ValueError, OSError, MemoryError)
LONGEST = 600  # characters of a message
PATIENCE = 20  # seconds for one input


@dataclass
class Format:
    "A file that mtmg reads, and how."

    path: Path  # the file that is damaged
    read: Callable  # gives what is in it, as plain values and arrays
    checked: bool  # whether its files carry checksums
    text: bool = False  # json: damaged in its values too
    names: bool = True  # whether a message names the file; of a YAML file it may name the flag instead
    keeps: Path | None = None  # a folder to be restored before each reading, where reading may change it


class TooLong(Exception):
    "An input took longer than PATIENCE."


# ---- damage


def cut(data, rng):
    return data[: rng.integers(len(data) + 1)]


def flipped(data, rng):
    out = bytearray(data)
    for at in rng.integers(len(out), size=rng.choice([1, 1, 1, 2, 8])):
        out[at] ^= 1 << int(rng.integers(8))
    return bytes(out)


def number(data, rng):
    "one of the numbers at which parsers stumble, somewhere"
    kind = rng.choice(['<H', '<I', '<Q', '>H', '>I', '>Q'])
    size = struct.calcsize(kind)
    value = (
        int(rng.choice([0, 1, 2**15, 2**16 - 1])) if size == 2 else (2 ** (8 * size) - 1) >> int(rng.integers(8 * size))
    )
    at = int(rng.integers(max(1, len(data) - size)))
    return data[:at] + struct.pack(kind, value) + data[at + size :]


def _piece(data, rng):
    a, b = sorted(map(int, rng.integers(len(data) + 1, size=2)))
    return a, min(b, a + 4096)


def removed(data, rng):
    a, b = _piece(data, rng)
    return data[:a] + data[b:]


def doubled(data, rng):
    a, b = _piece(data, rng)
    return data[:b] + data[a:]


def zeroed(data, rng):
    "what a power cut leaves of a block of a disk"
    a, b = _piece(data, rng)
    return data[:a] + bytes(b - a) + data[b:]


def swapped(data, rng):
    size = 512
    blocks = max(1, len(data) // size)
    a, b = sorted(map(int, rng.integers(blocks, size=2)))
    if a == b:
        return flipped(data, rng)
    one, other = (data[i * size : (i + 1) * size] for i in (a, b))
    return data[: a * size] + other + data[(a + 1) * size : b * size] + one + data[(b + 1) * size :]


def other(data, rng):
    "a file of something else: an error page, an empty file, a pickle, a pointer of Git LFS"
    return [
        b'',
        b'<!doctype html><p>503',
        b'\x80\x04cos\nsystem\n.',
        b'version https://git-lfs.github.com/spec/v1\n',
        b'\0' * 5000,
    ][rng.integers(5)]


DAMAGE = (cut, cut, flipped, flipped, flipped, number, removed, doubled, zeroed, swapped, other)
ODD = (None, True, -1, 0, 10**30, 1e308, float('nan'), '', 'x' * 2000, '../../etc', [], {}, [[]], {'a': None}, [1, 'x'])


def changed_value(data, rng):
    "json with another value, another type, a missing key, or nested without end"
    top = json.loads(data)
    if rng.integers(40) == 0:
        return b'[' * 100_000
    node, here = top, None
    while isinstance(node, dict | list) and node and (here is None or rng.integers(3)):
        here = node, (list(node)[rng.integers(len(node))] if isinstance(node, dict) else int(rng.integers(len(node))))
        node = here[0][here[1]]
    if here is None or rng.integers(20) == 0:
        return json.dumps(ODD[rng.integers(len(ODD))]).encode()
    if rng.integers(4) == 0:
        del here[0][here[1]]
    else:
        here[0][here[1]] = ODD[rng.integers(len(ODD))]
    return json.dumps(top).encode()


# ---- formats


def same(a, b) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b or (a != a and b != b)


def plain(x):
    "tensors as arrays"
    if hasattr(x, 'detach'):
        return x.detach().float().numpy()
    if isinstance(x, dict):
        return {str(k): plain(v) for k, v in x.items()}
    return [plain(v) for v in x] if isinstance(x, list | tuple) else x


def formats(folder: Path) -> dict:
    "Small files of every format, written by mtmg where mtmg writes it."
    from PIL import Image
    import rasterio
    from safetensors.torch import save_file
    import torch

    from mtmg.bands import S2_L2A
    from mtmg.bench import write_bigearthnet
    from mtmg.cli.entry import Command
    from mtmg.cli.options import Data, Run
    from mtmg.clip import load_clip
    from mtmg.clip.checkpoints import read_checkpoint
    from mtmg.clip.sources import find_source
    from mtmg.data import load_dataset
    from mtmg.data.files import read_image
    from mtmg.data.writing import load_tensors, save_tensors
    from mtmg.data.shards import stream_shards, write_paper_shards, write_shards
    from mtmg.data.shards.reading import ShardScenes, read_shards
    from mtmg.embed.embeddings import Embeddings
    from mtmg.encoders import ModalityEncoder, create_encoder
    from mtmg.engine.runs import close_run, open_run
    from mtmg.evaluate.results import Result, load_result

    rng, generator, found = np.random.default_rng(0), torch.Generator().manual_seed(0), {}
    place = {k: folder / k for k in ('shards', 'lone', 'sizes', 'foreign', 'clip', 'encoder', 'run', 'paper', 'emb')}
    world = load_dataset('miniworld', n=6, split='test')

    # shards
    def scenes(root, split='test'):
        def read(_):
            return [plain(s) for s in ShardScenes(root, split)]

        return read

    def batches(root):
        def read(_):
            return [plain(b) for b in read_shards(root, 'test', batch_size=4, rgb=True)]

        return read

    for name in ('shards', 'lone'):
        write_shards(world, place[name], scenes_per_shard=6, progress=False)
    (place['lone'] / 'test' / '0.npz').unlink()
    shard = place['shards'] / 'test'
    found['tar'] = Format(shard / '0.tar', batches(place['shards']), True)
    found['tar-without-index'] = Format(place['lone'] / 'test' / '0.tar', scenes(place['lone']), True)
    found['index'] = Format(shard / '0.npz', batches(place['shards']), True)
    found['dataset.json'] = Format(place['shards'] / 'dataset.json', scenes(place['shards']), False, text=True)
    found['split.json'] = Format(shard / 'split.json', scenes(place['shards']), True, text=True)
    found['nshards.txt'] = Format(shard / 'nshards.txt', scenes(place['shards']), True)

    def stream(path):
        return [plain(b) for b in stream_shards(path)]

    found['tar-stream'] = Format(place['lone'] / 'stream.tar', stream, True)
    shutil.copy(place['lone'] / 'test' / '0.tar', place['lone'] / 'stream.tar')
    found['tar.gz'] = Format(write_paper_shards(world, place['paper'], compresslevel=1)[0], stream, True)

    write_bigearthnet(folder / 'tifs', 4)  # bands of three sizes
    write_shards(load_dataset('bigearthnet-v1', folder / 'tifs', split='train'), place['sizes'], progress=False)
    shutil.copy(place['sizes'] / 'train' / '0.tar', place['sizes'] / 'stream.tar')
    shutil.copytree(place['sizes'], folder / 'sizes-lone')
    (folder / 'sizes-lone' / 'train' / '0.npz').unlink()
    lone = scenes(folder / 'sizes-lone', 'train')
    found['tar-of-sizes'] = Format(folder / 'sizes-lone' / 'train' / '0.tar', lone, True)
    found['stream-of-sizes'] = Format(place['sizes'] / 'stream.tar', stream, True)
    described = scenes(place['sizes'], 'train')
    found['dataset.json-of-sizes'] = Format(place['sizes'] / 'dataset.json', described, False, text=True)

    # pictures and rasters
    picture = Image.fromarray(rng.integers(0, 255, (24, 24, 3)).astype(np.uint8))

    def image(path):
        pixels, bands = read_image(path)
        if pixels.ndim != 3 or not pixels.size:
            raise TypeError(f'pixels of shape {pixels.shape}')
        return [pixels, None if bands is None else [str(b) for b in bands]]

    for suffix in ('jpg', 'png', 'webp'):
        picture.save(folder / f'picture.{suffix}')
        found[suffix] = Format(folder / f'picture.{suffix}', image, False)
    for name, options in (
        ('tif', {}),
        ('tif-deflate', {'compress': 'deflate', 'tiled': True, 'blockxsize': 16, 'blockysize': 16}),
    ):
        path = folder / f'{name}.tif'
        with rasterio.open(
            path, 'w', driver='GTiff', height=24, width=24, count=12, dtype='uint16', crs='EPSG:32632', **options
        ) as file:
            file.write(rng.integers(0, 4000, (12, 24, 24)).astype(np.uint16))
            file.descriptions = [str(b) for b in S2_L2A.bands]
        found[name] = Format(path, image, False)

    # arrays
    np.savez(folder / 'scenes.npz', image=rng.integers(0, 255, (4, 3, 8, 8)).astype(np.uint8), label=np.arange(4))

    def npz(path):
        dataset = load_dataset('npz', path, split='test', labelset=['a', 'b', 'c', 'd'])
        return [plain(s) for s in dataset]

    found['npz'] = Format(folder / 'scenes.npz', npz, True)
    place['emb'].mkdir()
    E = Embeddings(
        {'rgb': torch.randn(9, 5, generator=generator)}, labels=torch.arange(9) % 2, ids=[f's{i}' for i in range(9)]
    )

    def embeddings(path):
        back = Embeddings.load(path)
        return plain(
            [back.features, back.labels if back.labels is not None else 0, list(back.ids or ()), back.meta, back.split]
        )

    found['embeddings'] = Format(E.save(place['emb'] / 'e.safetensors'), embeddings, True)
    torch.save(E.features['rgb'], place['emb'] / 'f.pt')
    np.save(place['emb'] / 'f.npy', E.features['rgb'].numpy())
    found['embeddings.pt'] = Format(place['emb'] / 'f.pt', embeddings, True)
    found['embeddings.npy'] = Format(place['emb'] / 'f.npy', embeddings, False)

    # weights
    state = {'visual.conv1.weight': torch.randn(4, 3, 2, 2, generator=generator), 'logit_scale': torch.tensor(4.6)}
    save_tensors(folder / 'ours.safetensors', state, {'format': 'pt'})
    found['safetensors'] = Format(folder / 'ours.safetensors', lambda path: plain(load_tensors(path)[0]), True)
    save_file(state, folder / 'theirs.safetensors')
    found['safetensors-of-others'] = Format(
        folder / 'theirs.safetensors', lambda path: plain(read_checkpoint(path)), False
    )
    torch.save({'state_dict': state, 'epoch': 3}, folder / 'theirs.pt')
    found['pt'] = Format(folder / 'theirs.pt', lambda path: plain(read_checkpoint(path)), True)
    torch.save(state, folder / 'old.pt', _use_new_zipfile_serialization=False)
    found['pt-before-1.6'] = Format(folder / 'old.pt', lambda path: plain(read_checkpoint(path)), False)

    place['clip'].mkdir()
    config = {
        'model_cfg': {
            'embed_dim': 8,
            'vision_cfg': {'image_size': 32, 'layers': 1, 'width': 8, 'patch_size': 16},
            'text_cfg': {},
        }
    }
    (place['clip'] / 'open_clip_config.json').write_text(json.dumps(config | {'preprocess_cfg': {}}))
    found['open_clip_config.json'] = Format(
        place['clip'] / 'open_clip_config.json', lambda _: find_source(str(place['clip'])).config, False, text=True
    )
    load_clip('tinyclip').save(folder / 'tinyclip')

    def clip(_):
        return plain(load_clip(str(folder / 'tinyclip')).model.state_dict()['logit_scale'])

    found['clip-config.json'] = Format(folder / 'tinyclip' / 'open_clip_config.json', clip, False, text=True)
    found['clip.safetensors'] = Format(folder / 'tinyclip' / 'open_clip_model.safetensors', clip, True)
    encoder = create_encoder('vit_micro', ('B04', 'B03', 'B02'), 8)
    encoder.save(place['encoder'])

    def student(_):
        back = ModalityEncoder.from_pretrained(place['encoder'])
        return plain(dict(back.state_dict()))

    found['encoder-config.json'] = Format(place['encoder'] / 'config.json', student, False, text=True)
    found['encoder.safetensors'] = Format(place['encoder'] / 'model.safetensors', student, True)

    # notes
    open_run(place['run'], {'lr': 1})
    close_run(place['run'])

    def run(_):
        resumed = open_run(place['run'], {'lr': 1})
        close_run(place['run'])
        return resumed

    found['run.json'] = Format(place['run'] / 'run.json', run, False, text=True, keeps=place['run'])
    Result({'kind': 'zero_shot', 'metrics': ['acc1'], 'acc1': 0.5, 'dataset': 'x', 'n': 9}).save(folder / 'result.json')
    found['result.json'] = Format(folder / 'result.json', lambda path: dict(load_result(path)), False, text=True)
    (folder / 'flags.yaml').write_text('dataset: miniworld\noptions: [n=4]\nseed: &s 3\nnum_workers: 0\nout: "x"\n')

    def visit(data: Data, run: Run, *, k: int = 5, names: list[str] | None = None):
        taken.append(str((data, run, k, names)))

    taken, command = [], Command(visit)

    def flags(path):
        from jsonargparse import ArgumentError

        taken.clear()
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                command(['--config', str(path)])
        except ArgumentError as error:
            raise ValueError(f'{path}: {str(error)[: LONGEST // 2]}') from None
        return list(taken)

    found['yaml'] = Format(folder / 'flags.yaml', flags, False, names=False)
    return found


# ---- the round


def outcome(name: str, f: Format, whole) -> tuple[str, str]:
    "what reading a damaged file came to, and the words"
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter('always')
        signal.alarm(PATIENCE)
        try:
            value = f.read(f.path)
        except DOCUMENTED as error:
            said = ' '.join(str(error).split())  # as the command line shows it
            if len(said) > LONGEST:
                return 'ESCAPED', f'{len(said)} characters: {said[:200]!r}'
            if not f.names or isinstance(error, MemoryError) or f.path.name in said or str(f.path.parent) in said:
                return 'refused', said
            return 'ESCAPED', f'names no file: {type(error).__name__}: {said}'
        except Exception as error:  # noqa: BLE001, that is what is looked for
            return 'ESCAPED', f'{type(error).__name__}: {str(error)[:200]}\n{traceback.format_exc()[-1500:]}'
        finally:
            signal.alarm(0)
    if same(value, whole):
        return 'as it was', ''
    if not f.checked:
        return 'other', ''
    if any(str(f.path.parent) in str(w.message) and w.category is UserWarning for w in warned):
        return 'warned', ''
    return 'SILENT', 'other values than were written'


def fuzz(name: str, f: Format, seconds: float, seed: int, keep: Path, most: int) -> dict:
    "A round over one format."
    data, counts, failed = (
        f.path.read_bytes(),
        dict.fromkeys(('as it was', 'refused', 'warned', 'other', 'ESCAPED', 'SILENT'), 0),
        set(),
    )
    if f.keeps:
        shutil.copytree(f.keeps, f'{f.keeps}.kept')
    whole = f.read(f.path)
    end, i = time.monotonic() + seconds, 0
    while i < most and (time.monotonic() < end or i < 20):
        rng = np.random.default_rng([seed, i, *name.encode()])
        if f.text and rng.integers(3):
            damaged = changed_value(data, rng)
        else:
            damaged = DAMAGE[rng.integers(len(DAMAGE))](data, rng)
            if rng.integers(4) == 0 and damaged:
                damaged = DAMAGE[rng.integers(len(DAMAGE))](damaged, rng)
        if f.keeps:
            shutil.rmtree(f.keeps)
            shutil.copytree(f'{f.keeps}.kept', f.keeps)
        f.path.write_bytes(damaged)
        what, said = outcome(name, f, whole)
        counts[what] += 1
        if what.isupper() and said[:60] not in failed:
            failed.add(said[:60])
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f'{name}-{seed}-{i}').write_bytes(damaged)
            (keep / f'{name}-{seed}-{i}.txt').write_text(said)
            print(f'{what}: {name}, seed {seed}, input {i}: {said.splitlines()[0][:200]}', flush=True)
        i += 1
    f.path.write_bytes(data)
    return counts


def quiet_rasterio():
    "GDAL says much of damaged rasters, some of it in bytes that are no text; what mtmg says of them is what counts."
    logging.getLogger('rasterio').setLevel(logging.CRITICAL + 1)
    shown = sys.unraisablehook
    sys.unraisablehook = lambda raised: None if 'rasterio' in str(raised.object) else shown(raised)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument('names', nargs='*', help='formats; by default all')
    arguments.add_argument('--seconds', type=float, default=30, help='for all formats together')
    arguments.add_argument('--most', type=int, default=10**9, help='inputs a format')
    arguments.add_argument('--seed', type=int, default=0)
    arguments.add_argument('--keep', type=Path, default=Path('runs/fuzz'), help='where inputs that fail are kept')
    given = arguments.parse_args()

    def alarm(*_):
        raise TooLong(f'no answer within {PATIENCE} s')

    signal.signal(signal.SIGALRM, alarm)
    quiet_rasterio()
    with tempfile.TemporaryDirectory() as folder:
        found = formats(Path(folder))
        if unknown := set(given.names) - set(found):
            print(f'{", ".join(sorted(unknown))}: not one of {", ".join(found)}', file=sys.stderr)
            return 2
        names = given.names or list(found)
        rows = {n: fuzz(n, found[n], given.seconds / len(names), given.seed, given.keep, given.most) for n in names}
    print(
        f'{"format":24} {"tried":>7} {"as it was":>10} {"refused":>8} {"warned":>7} {"other":>6} '
        f'{"escaped":>8} {"silent":>7}'
    )
    for name, row in rows.items():
        print(
            f'{name:24} {sum(row.values()):7} '
            + ' '.join(f'{n:{w}}' for n, w in zip(row.values(), (10, 8, 7, 6, 8, 7), strict=True))
        )
    total = {k: sum(row[k] for row in rows.values()) for k in next(iter(rows.values()))}
    print(
        f'{"all":24} {sum(total.values()):7} '
        + ' '.join(f'{n:{w}}' for n, w in zip(total.values(), (10, 8, 7, 6, 8, 7), strict=True))
    )
    failed = sum(row['ESCAPED'] + row['SILENT'] > 0 for row in rows.values())
    print(f'\n{len(rows) - failed} passed, {failed} failed')
    return int(failed > 0)


if __name__ == '__main__':
    sys.exit(main())
