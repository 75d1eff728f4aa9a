"""Commands that are killed, and files that a power cut leaves short: the same command ends with the same bytes.

python tools/kills.py            twenty-odd kills and as many cut files, a minute or two
python tools/kills.py --few      a few of each

A kill is SIGKILL inside a system call that matters: while a file is being written, before it is synced, before it is
renamed, before its folder is synced. Then the command runs again, undisturbed. Its result must equal, byte for byte,
that of a run that nobody disturbed. Of a cut file, the next command makes a whole one, or names it and stops.
"""

import argparse
from dataclasses import dataclass
import hashlib
import multiprocessing
import os
from pathlib import Path
import shutil
import signal
import sys
import tempfile
import threading
import time
from typing import Callable
import warnings

import numpy as np


@dataclass
class Command:
    "Something that writes a folder and can be called again."

    run: Callable  # folder -> None
    result: Callable  # folder -> what must be equal
    watched: str | None = None  # the file that is being written when the kill comes, where its writing takes long


def digest(folder: Path) -> dict:
    files = sorted(p for p in folder.rglob('*') if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def commands() -> dict:
    import torch

    from mtmg.clip import load_clip
    from mtmg.data import load_dataset
    from mtmg.data.shards import write_shards
    from mtmg.data.writing import ASIDE
    from mtmg.embed import embed
    from mtmg.patching import finetune

    torch.set_num_threads(1)
    world = load_dataset('miniworld', n=(24, 12, 24))
    clip = load_clip('tinyclip')

    def shards(folder):
        write_shards(world.test, folder, scenes_per_shard=6, progress=False)

    def blocks(folder):
        embed({'rgb': clip}, world.test, cache=folder, block_size=6, progress=False)

    def trained(folder):
        how = dict(epochs=2, batch_size=8, device='cpu', precision='32-true', progress=False)
        tuned = finetune(clip, world.train, **how, out=folder / 'run', trainer={'checkpoint_every': 1})
        tuned.save(folder / 'tuned')

    def weights(folder):
        return {'hash': load_clip(str(folder / 'tuned')).hash(), **digest(folder / 'tuned')}

    return {
        'shards': Command(shards, digest, ASIDE),
        'blocks': Command(blocks, digest),
        'checkpoint': Command(trained, weights, 'last.part'),
    }


def dies(command: Command, folder: Path, call: str, n: int):
    "Run in a process of its own, which ends itself in the n-th `call`; whether it came so far."
    count = [0]

    def deadly(real):
        def stand_in(*args, **kwargs):
            count[0] += 1
            if count[0] == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return stand_in

    def watch():
        seen = 0
        while seen < n:
            for path in folder.rglob(f'*{command.watched}*'):
                if path.stat().st_size > 0:
                    seen += 1
                    break
            time.sleep(0.0005)
        os.kill(os.getpid(), signal.SIGKILL)

    if call == 'write':
        threading.Thread(target=watch, daemon=True).start()
    else:
        setattr(os, call, deadly(getattr(os, call)))
    warnings.simplefilter('ignore')
    command.run(folder)


def killed(command: Command, folder: Path, call: str, n: int) -> bool:
    process = multiprocessing.get_context('fork').Process(target=dies, args=(command, folder, call, n))
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument('names', nargs='*', help='shards, blocks, checkpoint; by default all')
    arguments.add_argument('--few', action='store_true', help='a few of each')
    arguments.add_argument('--seed', type=int, default=0)
    given = arguments.parse_args()
    rng, rows = np.random.default_rng(given.seed), []
    warnings.simplefilter('ignore')
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for name, command in commands().items():
            if given.names and name not in given.names:
                continue
            command.run(scratch / name / 'whole')
            right = command.result(scratch / name / 'whole')
            moments = [(call, n) for n in (1, 2, 5, 9) for call in ('fsync', 'replace')]
            moments += [('write', n) for n in (1, 4, 30)] if command.watched else []
            tried = held = 0
            for call, n in moments[:3] if given.few else moments:
                folder = scratch / name / f'{call}{n}'
                if not killed(command, folder, call, n):
                    continue  # it had ended before
                tried += 1
                command.run(folder)
                held += command.result(folder) == right
                print(f'{name}: killed in {call} {n}, {held} of {tried} held', flush=True)
            rows.append((f'{name}: kill -9', tried, held))

            tried = held = 0
            files = [
                p
                for p in sorted((scratch / name / 'whole').rglob('*'))
                if p.is_file() and p.suffix not in ('.csv', '.yaml')
            ]
            for path in files[:4] if given.few else files[:14]:
                folder = scratch / name / 'cut'
                shutil.copytree(scratch / name / 'whole', folder)
                short = folder / path.relative_to(scratch / name / 'whole')
                short.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])
                tried += 1
                try:
                    command.run(folder)
                    held += command.result(folder) == right
                except (ValueError, OSError) as error:
                    held += short.name in str(error) or str(short.parent) in str(error) or str(folder) in str(error)
                shutil.rmtree(folder)
            rows.append((f'{name}: a file cut short', tried, held))
    print(f'{"kind of fault":32} {"tried":>6} {"held":>6}')
    for row in rows:
        print(f'{row[0]:32} {row[1]:6} {row[2]:6}')
    failed = sum(tried != held for _, tried, held in rows)
    print(f'\n{len(rows) - failed} passed, {failed} failed')
    return int(failed > 0)


if __name__ == '__main__':
    sys.exit(main())
