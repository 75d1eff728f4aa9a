"""The README and the documentation site, from the notebooks and without quarto or a network.

    python tools/docs.py readme            # nbs/index.ipynb -> README.md
    python tools/docs.py site [--execute]  # _docs: a page a notebook, a page a door; --execute runs module notebooks

nbdev's processors strip directives and hidden cells and link names in backticks, nbconvert renders, and every internal
link is checked."""

import argparse
import ast
from html import escape, unescape
from html.parser import HTMLParser
from importlib.util import resolve_name
import json
import os
from pathlib import Path, PurePosixPath
import re
import shutil
import sys
from urllib.parse import unquote, urlsplit

import nbformat

ROOT = Path(__file__).resolve().parent.parent
NBS, SITE = ROOT / 'nbs', ROOT / '_docs'
os.chdir(ROOT)  # nbdev looks for settings.ini upward from here

from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup, _nbpath2html
from nbdev.process import NBProcessor
from nbdev.processors import clean_magics, hide_, hide_line, populate_language, rm_header_dash
from notebooks import code_cells, made_by, reading_order

DEFINITIONS = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef


# ---- notebooks ------------------------------------------------------------------------------------


class Links(NbdevLookup):
    "Public names, linked by `target(page, anchor)`; nbdev's own look-up would point at the published site."

    def __init__(self, target):
        from mtmg._modidx import d

        self.target, self.places = target, {}
        for module, names in d['syms'].items():
            for name, (place, _) in names.items():
                short = name.removeprefix(f'{module}.')
                if not short.startswith('_'):
                    self.places.setdefault(short, place)
                self.places.setdefault(name, place)

    def doc(self, name):
        place = self.places.get(name)
        return self.target(*place.split('#')) if place else None


def public_names(cell) -> list[str]:
    "Anchors of the functions, classes and methods that an exported cell defines."
    if cell.cell_type != 'code' or not {'export', 'exports'} & getattr(cell, 'directives_', {}).keys():
        return []
    names = []
    for node in ast.parse(cell.source).body:
        if not isinstance(node, DEFINITIONS) or node.name.startswith('_'):
            continue
        names.append(node.name)
        if isinstance(node, ast.ClassDef):
            names += [f'{node.name}.{n.name}' for n in node.body if isinstance(n, DEFINITIONS)]
    return names


def processed(path: Path, links: Links, nb=None, anchors: bool = False):
    "A notebook as a reader should see it: an nbformat notebook without hidden cells and directives, with links."
    from execnb.nbio import dict2nb

    nb = dict2nb(nb or nbformat.read(path, as_version=4))
    nb = NBProcessor(nb=nb, procs=[populate_language, hide_line, rm_header_dash, hide_, clean_magics])
    nb.process()
    cells = []
    for cell in nb.nb.cells:
        if cell.cell_type == 'raw' or 'default_exp' in (getattr(cell, 'directives_', None) or {}):
            continue
        names = public_names(cell) if anchors else []
        if names:
            cells.append(nbformat.v4.new_markdown_cell(''.join(f'<a id="{n.lower()}"></a>' for n in names)))
        if cell.cell_type == 'markdown':
            cells.append(nbformat.v4.new_markdown_cell(links.linkify(cell.source)))
        elif cell.source.strip():
            options = dict(re.findall(r'^#\|\s*(echo|output|include):\s*(\w+)\s*$', cell.source, re.M))
            if options.get('include') == 'false':
                continue
            source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip()
            shown = [] if options.get('output') == 'false' else [nbformat.from_dict(o) for o in cell.get('outputs', [])]
            if options.get('echo') == 'false' and not shown:
                continue
            metadata = {'echo': options.get('echo') != 'false'}
            if alt := re.search(r'^#\|\s*fig-alt:\s*(.+?)\s*$', cell.source, re.M):
                metadata['alt'] = alt[1]  # nbconvert writes it beside the cell's pictures
            cells.append(nbformat.v4.new_code_cell(source, outputs=shown, metadata=metadata))
    for i, cell in enumerate(cells):
        cell['id'] = f'cell-{i}'
    return nbformat.v4.new_notebook(
        cells=cells, metadata={'language_info': {'name': 'python', 'pygments_lexer': 'python'}}
    )


LINK = re.compile(r'(!?\[[^\]\n]*\]\(|<img [^>]*src="|<a [^>]*href=")([^)"\s]+)')

PICTURE = re.compile(r'!\[([^\]]*)\]\(https?://[^)]*\)')  # on some other server


def relink(nb, change):
    "Apply `change` to the target of every relative link and image of a notebook's prose."
    for cell in nb.cells:
        if cell.cell_type != 'markdown':
            continue
        cell.source = LINK.sub(
            lambda m: m[1] + (m[2] if urlsplit(m[2]).scheme or m[2].startswith('#') else change(m[2])), cell.source
        )
    return nb


# ---- README ---------------------------------------------------------------------------------------


def render_readme() -> tuple[str, dict[str, bytes]]:
    "README.md and the pictures that it shows (path -> bytes), as nbs/index.ipynb gives them."
    from nbconvert import MarkdownExporter
    from traitlets.config import Config

    index = NBS / get_config().readme_nb
    pages = {_nbpath2html(p.relative_to(NBS)).as_posix(): p.relative_to(ROOT).as_posix() for p in NBS.rglob('*.ipynb')}
    links = Links(lambda page, anchor: pages.get(page, page))  # GitHub shows the notebooks themselves
    beside = lambda target: os.path.relpath(NBS / target, ROOT)
    nb = relink(relabel(processed(index, links), ROOT), beside)
    config = Config(
        {'NbConvertBase': {'display_data_priority': ['text/markdown', 'image/svg+xml', 'image/png', 'text/plain']}}
    )
    resources = {'output_files_dir': f'{index.stem}_files', 'unique_key': index.stem}
    text, resources = MarkdownExporter(config=config).from_notebook_node(nb, resources=resources)
    notice = f'<!-- made from {index.relative_to(ROOT).as_posix()} by `make readme`: edit the notebook -->'
    return f'{notice}\n\n{text.strip()}\n', resources.get('outputs', {})


def relabel(nb, start: Path):
    "Drop what a page cannot show (the source of `echo: false` cells); GitHub links that Links made are from the root."
    for cell in nb.cells:
        if cell.cell_type == 'markdown':
            cell.source = re.sub(
                r'\]\((nbs/[^)]+)\)', lambda m: f']({os.path.relpath(start / m[1], NBS)})', cell.source
            )
        elif not cell.metadata.get('echo', True):
            cell.metadata['transient'] = {'remove_source': True}
    return nb


def readme() -> int:
    text, pictures = render_readme()
    (ROOT / 'README.md').write_text(text, encoding='utf-8')
    for name, content in pictures.items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_bytes(content)
    missing = [
        m[2]
        for m in LINK.finditer(text)
        if not urlsplit(m[2]).scheme and not m[2].startswith('#') and not (ROOT / unquote(urlsplit(m[2]).path)).exists()
    ]
    for target in missing:
        print(f'README.md: no file {target}')
    print(f'README.md: {len(text):,} characters, {len(pictures)} pictures, {len(missing)} broken links')
    return int(bool(missing))


# ---- pages ----------------------------------------------------------------------------------------


def exporter():
    "nbconvert's HTML with formulas as MathML, which browsers draw by themselves, instead of a script from a network."
    from jinja2 import pass_context
    from latex2mathml.converter import convert
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def block_math(self, body):
            return convert(unescape(body), display='block')

        def inline_math(self, body):
            return convert(unescape(body))

    class Exporter(HTMLExporter):
        @pass_context
        def markdown2html(self, context, source):
            attachments = context.get('cell', {}).get('attachments', {})
            renderer = Renderer(escape=False, attachments=attachments, anchor_link_text='¶')
            return MarkdownWithMath(renderer=renderer).render(source)

    made = Exporter(template_name='basic', exclude_input_prompt=True, exclude_output_prompt=True)
    made.register_filter(
        'clean_html', lambda html: html
    )  # nbconvert bleaches highlighted code, at half of the time: this code is ours
    made.config.NbConvertBase.display_data_priority = [
        'text/html',
        'text/markdown',
        'image/svg+xml',
        'image/png',
        'image/jpeg',
        'text/latex',
        'text/plain',
    ]  # no widgets: they need a kernel
    return made


def title_of(nb, path: Path) -> tuple[str, str]:
    "Title and sentence of a notebook's first cell (`# Title`, `> sentence`)."
    text = next(
        (c.source for c in nb.cells if c.cell_type == 'markdown' and c.source.lstrip().startswith('# ')),
        f'# {path.stem}',
    )
    sentence = re.search(r'^>\s*(.+)$', text, re.M)
    return text.lstrip().splitlines()[0].lstrip('# ').strip(), sentence[1].strip() if sentence else ''


def stub(node, lines: list[str]) -> str:
    "A definition without its code: decorators, head with its parameters' comments, docstring, fields and methods."
    start = min([node.lineno] + [d.lineno for d in node.decorator_list]) - 1
    first = node.body[0]
    cut = lines[first.lineno - 1].encode()[: first.col_offset].decode()  # `def f(x): return x` has both on one line
    text = ['\n'.join(lines[start : first.lineno - 1] + [cut]).rstrip()]
    if ast.get_docstring(node):
        text += lines[first.lineno - 1 : first.end_lineno]
    if isinstance(node, ast.ClassDef):
        for below in node.body:
            if isinstance(below, DEFINITIONS) and (below.name == '__init__' or not below.name.startswith('_')):
                text.append(stub(below, lines))
            elif isinstance(below, (ast.AnnAssign, ast.Assign)) and not lines[below.lineno - 1].strip().startswith('_'):
                text += lines[below.lineno - 1 : below.end_lineno]
    return '\n'.join(text)


def definitions(module: str) -> dict[str, tuple[str, str]]:
    "Public name -> its first sentence, and its markdown, of one module."
    path = ROOT / f'{module.replace(".", "/")}.py'
    source = path.read_text(encoding='utf-8')
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body:
        if isinstance(node, DEFINITIONS) and not node.name.startswith('_'):
            anchors = [node.name] + [f'{node.name}.{n.name}' for n in node.body if isinstance(n, DEFINITIONS)]
            text = ''.join(f'<a id="{n.lower()}"></a>' for n in anchors)
            sentence = (ast.get_docstring(node) or '').partition('\n')[0]
            found[node.name] = sentence, f'{text}\n\n### {node.name}\n\n```python\n{stub(node, lines)}\n```'
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, text = node.targets[0].id, lines[node.lineno - 1 : node.end_lineno]
            code = '\n'.join(text[:12] + ['…'] * (len(text) > 12))
            found[name] = '', f'<a id="{name.lower()}"></a>\n\n### {name}\n\n```python\n{code}\n```'
    return found


def doors() -> list[tuple[str, Path, dict[str, list[str]]]]:
    "(package or module, its notebook, {module: public names}), as one reads them: what a user imports from."
    found = []
    for _, names in reading_order():
        for path in (NBS / f'{name}.ipynb' for name in names):
            module = made_by(path)
            if module is None or module == 'shards':  # a second name of what stands in data.shards
                continue
            if module.endswith('.__init__'):
                package = 'mtmg.' + module.removesuffix('.__init__')
                face = ast.parse((ROOT / package.replace('.', '/') / '__init__.py').read_text(encoding='utf-8'))
                calls = (n for n in ast.walk(face) if isinstance(n, ast.keyword) and n.arg == 'submod_attrs')
                taken = ast.literal_eval(next(calls).value)
                found.append((package, path, {f'{package}.{m}': list(names) for m, names in taken.items()}))
            elif '.' not in module:
                found.append((f'mtmg.{module}', path, {f'mtmg.{module}': list(definitions(f'mtmg.{module}'))}))
    return found


def door_page(package: str, notebook: Path, modules: dict[str, list[str]], page_of: dict) -> str:
    "One door of the package as markdown: an example, a table of its names, and each name with its signature."
    source = (ROOT / package.replace('.', '/')).with_suffix('.py')
    source = source if source.exists() else ROOT / package.replace('.', '/') / '__init__.py'
    sentence = (ast.get_docstring(ast.parse(source.read_text(encoding='utf-8'))) or '').partition('\n')[0]
    example = '\n\n'.join(c for c in code_cells(notebook) if not c.startswith('#|'))
    first = [n for n in re.findall(r'\w+', example) if any(n in names for names in modules.values())]
    parts = [f'# {package}', f'> {sentence}']
    if notebook.stem == 'front':
        parts.append(f'```python\n{example}\n```')
    found = {m: definitions(m) for m in modules}
    for module, names in modules.items():
        for n in names:
            if n not in found[module] and (home := taken_from(module, n)):
                found[module][n] = definitions(home)[n]
    for module, names in modules.items():
        known = [n for n in dict.fromkeys([n for n in first if n in names] + names) if n in found[module]]
        where = page_of[NBS / f'{module.removeprefix("mtmg.").replace(".", "/")}.ipynb']
        parts.append(
            f'## {module.removeprefix(package).lstrip(".") or package}\n\n[Why, how, and its tests](../{where})'
        )
        rows = [f'| [`{n}`](#{n.lower()}) | {found[module][n][0].replace("|", chr(92) + "|")} |' for n in known]
        parts.append('\n'.join(['| name | what it is |', '|---|---|', *rows]))
        parts += [found[module][n][1] for n in known]
    return '\n\n'.join(parts)


def taken_from(module: str, name: str) -> str | None:
    "The module from which another one takes a name that its door hands on."
    source = (ROOT / f'{module.replace(".", "/")}.py').read_text(encoding='utf-8')
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and name in [n.name for n in node.names]:
            return resolve_name('.' * node.level + node.module, module.rpartition('.')[0])


def built(path: Path, links: Links, execute: bool):
    "A processed notebook; module notebooks keep no outputs, so that their pictures need a run."
    nb = None
    if execute and made_by(path):
        from notebooks import execute as run

        print(f'running {path.relative_to(ROOT)}', flush=True)
        nb = run(path)
    return processed(path, links, nb, anchors=True)


def neighbours_of(page: str, order: list[str], pages: dict) -> str:
    "Links to the page before and the page after."
    at, here = order.index(page), PurePosixPath(page).parent
    link = lambda p, text: f'<a href="{os.path.relpath(p, here)}">{text}</a>'
    before = link(order[at - 1], f'← {pages[order[at - 1]][0]}') if at else ''
    after = link(order[at + 1], f'{pages[order[at + 1]][0]} →') if at + 1 < len(order) else ''
    return f'<footer><span>{before}</span><span>{after}</span></footer>'


def headings(body: str) -> str:
    "A page's list of its own sections."
    found = re.findall(r'<h2 id="([^"]+)">(.*?)<a class="anchor-link"', body, re.S)
    return (
        '<aside><b>On this page</b>' + ''.join(f'<a href="#{i}">{t}</a>' for i, t in found) + '</aside>'
        if len(found) > 1
        else ''
    )


def menu_of(page: str, navigation: dict[str, list[tuple[str, str]]]) -> str:
    "The menu as one page sees it: a list is open where the page is in it, and the first one always."

    def link(target, text):
        here = ' class=here' if target == page else ''
        return f'<a href="{os.path.relpath(target, PurePosixPath(page).parent)}"{here}>{escape(text)}</a>'

    menu = [link('index.html', get_config().title)]
    for at, (section, entries) in enumerate(navigation.items()):
        shown = at == 0 or any(target == page for target, _ in entries)
        links = ''.join(link(*entry) for entry in entries)
        menu.append(f'<details{" open" if shown else ""}><summary>{escape(section)}</summary>{links}</details>')
    return '\n'.join(menu)


def sections_of(body: str, page: str, title: str) -> list[list[str]]:
    "What the search knows of a page: for each of its sections a heading, an address, the page's title and all words."
    found, heading, anchor = [], title, ''
    for piece in re.split(r'(?=<h[123] id=")', re.sub(r'<(svg|style|script|math)\b.*?</\1>', ' ', body, flags=re.S)):
        if start := re.match(r'<h[123] id="([^"]+)">(.*?)<a class="anchor-link"', piece, re.S):
            anchor, heading = f'#{start[1]}', unescape(re.sub('<[^>]+>', '', start[2])).strip()
        words = ' '.join(unescape(re.sub('<[^>]+>', ' ', piece)).replace('¶', ' ').split())
        if words:
            found.append([heading, page + anchor, title, words])
    return found


def copy_pictures():
    "Copy the pictures that prose shows."
    for p in NBS.rglob('*'):
        inside = p.relative_to(NBS)
        if p.suffix in ('.png', '.jpg', '.svg', '.gif') and not any(part.startswith('.') for part in inside.parts):
            (SITE / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(p, SITE / inside)


def notebook_page(path: Path, page_of: dict, source: str, execute: bool) -> tuple:
    "(title, notebook with its links set, its source) of one notebook."
    here = PurePosixPath(page_of[path]).parent
    nb = built(path, Links(lambda target, anchor: f'{os.path.relpath(target, here)}#{anchor}'), execute)

    def follow(target):
        url = urlsplit(target)
        file = (path.parent / unquote(url.path)).resolve()
        if file in page_of:
            return os.path.relpath(page_of[file], here) + (f'#{url.fragment}' if url.fragment else '')
        if file.suffix == '.html' or (SITE / here / unquote(url.path)).exists() or not file.exists():
            return target
        return f'{source}/{file.relative_to(ROOT).as_posix()}'

    title, _ = title_of(nb, path)
    for cell in nb.cells:  # a page asks no network: pictures from elsewhere become their words
        if cell.cell_type == 'markdown':
            cell.source = PICTURE.sub(r'\1', cell.source)
    return title, relink(relabel(nb, ROOT), follow), path.relative_to(ROOT).as_posix()


def api_pages(page_of: dict) -> dict[str, tuple]:
    "Page -> (title, notebook, its source) of the API: an overview, and a page for each door."

    def written(text):
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])

    pages, rows = {'api/index.html': None}, ['| door | what it is for |', '|---|---|']
    for package, notebook, modules in doors():
        page = f'api/{package.removeprefix("mtmg.")}.html'
        text = door_page(package, notebook, modules, page_of)
        rows.append(f'| [{package}]({PurePosixPath(page).name}) | {text.splitlines()[2].lstrip("> ")} |')
        pages[page] = package, written(text), notebook.relative_to(ROOT).as_posix()
    overview = '# API\n\n> What one imports, door by door.\n\n' + '\n'.join(rows)
    pages['api/index.html'] = 'API', written(overview), get_config().lib_path.name
    return pages


def site(execute: bool) -> int:
    "Write _docs; the exit status."
    shutil.rmtree(SITE, ignore_errors=True)
    SITE.mkdir()
    copy_pictures()
    groups = [(title, [NBS / f'{name}.ipynb' for name in names]) for title, names in reading_order()]
    paths = [NBS / get_config().readme_nb, *(path for _, group in groups for path in group)]
    page_of = {p: _nbpath2html(p.relative_to(NBS)).as_posix() for p in paths}
    source = f'{get_config().git_url}/blob/{get_config().branch}'
    pages = {page_of[path]: notebook_page(path, page_of, source, execute) for path in paths}
    navigation = {title: [(page_of[p], pages[page_of[p]][0]) for p in group] for title, group in groups}
    api = api_pages(page_of)
    navigation['API'] = [(page, title.removeprefix('mtmg.')) for page, (title, *_) in api.items()]

    found, order = [], list(pages)
    render, frame = exporter(), (ROOT / 'tools' / 'page.html').read_text(encoding='utf-8')
    for page, (title, nb, file) in (pages | api).items():
        body, _ = render.from_notebook_node(nb)
        parts = {
            'title': title,
            'root': os.path.relpath('.', PurePosixPath(page).parent),
            'menu': menu_of(page, navigation),
            'sections': headings(body),
            'source': f'{source}/{file}',
            'kind': 'api' if page in api else 'notebook',
            'body': body + (neighbours_of(page, order, pages) if page in order else ''),
        }
        (SITE / page).parent.mkdir(parents=True, exist_ok=True)
        (SITE / page).write_text(re.sub(r'{{(\w+)}}', lambda m, parts=parts: parts[m[1]], frame), encoding='utf-8')
        found += sections_of(body, page, title)
    # a script, as a page opened from disk may read no other file
    (SITE / 'search.js').write_text(f'const FOUND = {json.dumps(found, ensure_ascii=False)}', encoding='utf-8')
    broken = broken_links(SITE)
    for line in broken[:30]:
        print(line)
    where = SITE.relative_to(ROOT)
    print(f'{where}: {len(pages | api)} pages, {len(broken)} broken links; open {where}/index.html')
    return int(bool(broken))


# ---- links ----------------------------------------------------------------------------------------


class Page(HTMLParser):
    "The anchors of a page and what it links to."

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.targets, self.loaded = {''}, [], []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[key] for key in ('id', 'name') if attrs.get(key)}
        if tag == 'a' and attrs.get('href'):
            self.targets.append(attrs['href'])
        if attrs.get('src'):
            self.targets.append(attrs['src'])
        if tag in ('script', 'link', 'img') and (attrs.get('src') or attrs.get('href')):
            self.loaded.append(attrs.get('src') or attrs['href'])


def broken_links(site: Path) -> list[str]:
    "Internal links without a page or an anchor, and scripts or styles from elsewhere."
    pages = {p.resolve(): Page(p) for p in site.rglob('*.html')}
    broken = []
    for path, page in pages.items():
        where = path.relative_to(site.resolve())
        broken += [
            f'{where}: loads {url} from a network'
            for url in page.loaded
            if urlsplit(url).scheme in ('http', 'https') or url.startswith('//')
        ]
        for target in page.targets:
            url = urlsplit(target)
            if url.scheme or url.netloc:
                continue
            file = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not file.exists():
                broken.append(f'{where}: no page {target}')
            elif url.fragment and file in pages and unquote(url.fragment) not in pages[file].ids:
                broken.append(f'{where}: no anchor {target}')
    return broken


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('command', choices=('readme', 'site'))
    parser.add_argument(
        '--execute', action='store_true', help="run the modules' notebooks for their pictures (minutes)"
    )
    args = parser.parse_args()
    sys.exit(readme() if args.command == 'readme' else site(args.execute))
