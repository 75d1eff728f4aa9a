"The package as settings.ini describes it: every field that pyproject.toml leaves to this file."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).resolve().parent
parser = ConfigParser(delimiters=['='])
parser.read(root / 'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']

LICENSES = {'apache2': 'Apache-2.0'}
STATUSES = [
    '1 - Planning',
    '2 - Pre-Alpha',
    '3 - Alpha',
    '4 - Beta',
    '5 - Production/Stable',
    '6 - Mature',
    '7 - Inactive',
]
PYTHONS = ['3.11', '3.12', '3.13']  # those that every requirement has wheels for


def lines(key):
    "The lines of a setting; configparser has already dropped the comments between them."
    return [line.strip() for line in cfg.get(key, '').splitlines() if line.strip()]


extras = {key.removesuffix('_requirements'): lines(key) for key in cfg if key.endswith('_requirements')}
readme = root / 'README.md'

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else cfg['description'],
    long_description_content_type='text/markdown',
    license=LICENSES[cfg['license']],
    author=cfg['author'],
    author_email=cfg['author_email'],
    keywords=cfg['keywords'].split(),
    url=cfg['git_url'],
    project_urls={'Documentation': cfg['doc_host'] + cfg['doc_baseurl'] + '/'},
    classifiers=[
        f'Development Status :: {STATUSES[int(cfg["status"]) - 1]}',
        f'Intended Audience :: {cfg["audience"]}',
        f'Natural Language :: {cfg["language"]}',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: GIS',
        *(f'Programming Language :: Python :: {version}' for version in PYTHONS),
    ],
    packages=find_packages(include=[cfg['lib_path'], cfg['lib_path'] + '.*']),
    package_data={cfg['lib_path']: ['clip/weights/**']},
    include_package_data=False,  # only what is named above: nothing slips in from the checkout
    python_requires=f'>={cfg["min_python"]}',
    install_requires=lines('requirements'),
    extras_require=extras,
    entry_points={
        'console_scripts': lines('console_scripts'),
        'nbdev': [f'{cfg["lib_path"]}={cfg["lib_path"]}._modidx:d'],  # nbdev links names in the documentation with it
    },
    zip_safe=False,
)
