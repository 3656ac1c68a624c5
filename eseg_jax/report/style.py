"""Style sheet and script of `report.html`; light or dark as the reader's system."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --ink: #1c2024; --soft: #60646c; --faint: #8b8d98;
  --rule: #e4e4e8; --track: #eff0f2; --accent: #2b6cb0; --second: #c2571a;
  --third: #3f8f6b; --fourth: #8b5fb5; --right: #2f7d6b; --wrong: #d1492e;
  --on: #ffffff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #111315; --ink: #e9eaec; --soft: #a3a7ae; --faint: #7b8088;
    --rule: #2a2e33; --track: #1e2226; --accent: #6cb0f5; --second: #f0935a;
    --third: #6cc79d; --fourth: #bd9be6; --right: #2f8f7a; --wrong: #ea6a4e;
    --on: #ffffff;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 14px/1.5 Inter, system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-font-smoothing: antialiased;
}
main { max-width: 1128px; margin: 0 auto; padding: 44px 24px 72px; }
h1 { margin: 2px 0 14px; font-size: 34px; line-height: 1.2; font-weight: 650;
  letter-spacing: -0.022em; overflow-wrap: anywhere; }
h1 i { font-style: normal; font-weight: 400; color: var(--faint); }
h2 { margin: 0; font-size: 19px; font-weight: 620; letter-spacing: -0.012em; }
h3 { margin: 0 0 8px; font-size: 13px; font-weight: 600; }
p { margin: 0; }
ul, ol { margin: 0; padding: 0; list-style: none; }
figure { margin: 0; }
li i { flex: none; width: 11px; height: 11px; border-radius: 2.5px;
  box-shadow: inset 0 0 0 1px rgb(128 128 128 / .35); }
.kicker, .note { color: var(--soft); font-size: 13px; }
section { margin-top: 44px; padding-top: 20px; border-top: 1px solid var(--rule); }
section > .note { margin: 1px 0 16px; }
section > h2 + div, section > h2 + table { margin-top: 16px; }

.done { height: 3px; border-radius: 2px; background: var(--track); overflow: hidden; }
.done span { display: block; height: 100%; background: var(--accent); }
.stats { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr));
  gap: 20px 24px; margin-top: 24px; }
.stats span { display: block; }
.stats .label, .stats .sub { color: var(--soft); font-size: 12.5px; }
.stats .value { margin: 1px 0; font-size: 29px; line-height: 1.25; font-weight: 600;
  letter-spacing: -0.02em; }
.stats small { margin-left: 2px; font-size: 16px; font-weight: 500;
  color: var(--faint); }

.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr));
  gap: 28px 40px; }
.charts.small { grid-template-columns: repeat(3, minmax(0, 1fr)); margin-top: 28px;
  gap: 24px 32px; }
.chart svg { display: block; width: 100%; height: auto; overflow: visible; }
.chart figcaption { display: flex; justify-content: space-between; margin-bottom: 4px;
  font-weight: 600; font-size: 13.5px; }
.chart figcaption b { font-weight: 500; color: var(--soft); }
.keys { display: flex; gap: 16px; font-size: 12px; color: var(--soft); }
.keys span::before { content: ""; display: inline-block; width: 14px; height: 2px;
  margin-right: 6px; vertical-align: 4px; background: var(--line); }
svg { font: 11px Inter, system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
svg text { fill: var(--soft); }
.grid { stroke: var(--rule); }
.tick { stroke: var(--faint); }
.s0 { --line: var(--accent); } .s1 { --line: var(--second); }
.s2 { --line: var(--third); } .s3 { --line: var(--fourth); }
.line, .faint { fill: none; stroke-linejoin: round; stroke-linecap: round; }
.line { stroke: var(--line); stroke-width: 1.8; }
.faint { stroke: var(--accent); stroke-opacity: .28; }
.dot { fill: var(--line); }
.best { fill: none; stroke: var(--accent); stroke-width: 1.4; }

.bars { display: grid; gap: 0 36px;
  grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); }
.bars li { display: flex; align-items: center; gap: 10px; height: 25px; }
.bars .name { flex: 0 0 112px; overflow: hidden; white-space: nowrap;
  text-overflow: ellipsis; }
.bars .bar { flex: 1; height: 11px; border-radius: 2.5px; background: var(--track);
  overflow: hidden; }
.bars .bar b { display: block; height: 100%; border-radius: 2.5px;
  box-shadow: inset 0 0 0 1px rgb(128 128 128 / .35); }
.bars .iou { flex: 0 0 40px; text-align: right; font-weight: 550; }
.bars .share { flex: 0 0 48px; text-align: right; color: var(--faint);
  font-size: 12.5px; }
.bars .head { color: var(--faint); font-size: 12px; }
.bars .head i { visibility: hidden; }
.bars .head .bar { display: flex; justify-content: space-between; height: auto;
  background: none; font-size: 11px; }
.bars .head em { font-style: normal; flex: 1; text-align: center; }
.bars .head em:first-child { text-align: left; }
.bars .head em:last-child { text-align: right; }
.bars .head .iou { font-weight: 400; white-space: nowrap; }
.bars .head .share { font-size: 12px; white-space: nowrap; }

.confusion { display: flex; flex-wrap: wrap; gap: 28px 44px; align-items: flex-start; }
.scroll { max-width: 100%; overflow-x: auto; }
.matrix { display: block; }
.matrix .frame { fill: var(--track); }
.matrix .right { fill: var(--right); }
.matrix .wrong { fill: var(--wrong); }
.matrix g text { fill: var(--ink); font-size: 11px; }
.matrix g text.on { fill: var(--on); }
.matrix g:hover rect { stroke: var(--ink); stroke-width: 1.2; }
.pairs { flex: 1 1 236px; }
.pairs ol { columns: 250px; column-gap: 40px; }
.pairs li { display: flex; align-items: center; gap: 7px; padding: 3.5px 0;
  break-inside: avoid; font-size: 13px; }
.pairs span { overflow: hidden; white-space: nowrap; text-overflow: ellipsis; }
.pairs em { font-style: normal; color: var(--faint); }
.pairs b { margin-left: auto; font-weight: 550; }

.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin-bottom: 18px;
  font-size: 12.5px; color: var(--soft); }
.legend li { display: flex; align-items: center; gap: 6px; }
.tiles { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 6px; }
.tiles.titles { margin-bottom: 6px; font-size: 12.5px; font-weight: 600; }
.tiles img, .film img, .wide img { display: block; width: 100%; height: auto;
  border-radius: 3px; cursor: zoom-in; }
.picture { margin-bottom: 26px; }
.picture .note { margin-bottom: 5px; overflow-wrap: anywhere; }
.film { display: grid; grid-template-columns: repeat(8, minmax(0, 1fr)); gap: 6px;
  margin-top: 8px; }
.film figcaption { font-size: 11.5px; color: var(--faint); }
dialog { padding: 0; border: 0; background: none; max-width: 96vw; max-height: 96vh; }
dialog::backdrop { background: rgb(0 0 0 / .8); }
dialog img { display: block; width: 94vw; max-height: 94vh; object-fit: contain;
  cursor: zoom-out; }

.split { display: flex; gap: 2px; height: 22px; border-radius: 4px; overflow: hidden; }
.times { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr));
  gap: 8px 24px; margin-top: 14px; }
.times li { display: grid; grid-template-columns: 11px 1fr; gap: 0 8px;
  align-items: center; }
.times b, .times em { grid-column: 2; font-style: normal; }
.times b { font-weight: 600; font-size: 17px; }
.times small { margin-left: 2px; font-size: 12px; font-weight: 500;
  color: var(--faint); }
.times em { font-size: 12.5px; color: var(--soft); }

table { width: 100%; border-collapse: collapse; margin-bottom: 18px; }
th, td { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--rule);
  text-align: left; vertical-align: top; overflow-wrap: anywhere; }
th { width: 220px; font-weight: 400; color: var(--soft); }
details { border-bottom: 1px solid var(--rule); }
summary { padding: 8px 0; cursor: pointer; font-weight: 550; }
pre { margin: 0 0 14px; padding: 14px 16px; border-radius: 6px; overflow-x: auto;
  background: var(--track); font: 12px/1.55 ui-monospace, "SF Mono", Menlo, Consolas,
  "DejaVu Sans Mono", monospace; }
@media (max-width: 760px) {
  .charts, .charts.small, .bars { grid-template-columns: minmax(0, 1fr); }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .tiles.titles { display: none; }
  .film { grid-template-columns: repeat(4, minmax(0, 1fr)); }
}
"""

# What only a comparison of two runs has.
COMPARE = """
.sides { margin: 6px 0 4px; font-size: 16px; }
.sides p { overflow-wrap: anywhere; }
.sides b { display: inline-block; width: 24px; font-size: 19px; color: var(--line); }
.sides span { color: var(--soft); font-size: 13px; }
.warning { margin: 12px 0 0; padding: 8px 14px; border-radius: 6px;
  background: var(--track); border-left: 3px solid var(--wrong); }
u { text-decoration: none; font-weight: 550; }
u.up { color: var(--right); } u.down { color: var(--wrong); }
.stats .sub i { font-style: normal; color: var(--line); margin-right: 8px; }
.bars .pair { flex: 1; display: grid; gap: 2px; }
.bars .pair b { height: 6px; border-radius: 2px; background: var(--line); }
.bars .delta { flex: 0 0 46px; text-align: right; }
.images { display: flex; flex-wrap: wrap; gap: 28px 44px; align-items: flex-start; }
.images .chart { flex: 0 0 420px; }
.lists { flex: 1 1 420px; display: grid; gap: 22px; }
.lists li { display: flex; gap: 14px; padding: 3px 0; font-size: 13px; }
.lists li span { flex: 1; overflow: hidden; white-space: nowrap;
  text-overflow: ellipsis; }
.lists li em { font-style: normal; color: var(--soft); }
.lists li u { flex: 0 0 48px; text-align: right; }
.diagonal { stroke: var(--faint); stroke-dasharray: 3 4; }
.five .tiles { grid-template-columns: repeat(5, minmax(0, 1fr)); }
td { width: 34%; }
"""

# A click on a picture shows it large.
SCRIPT = """
const zoom = document.getElementById("zoom");
zoom.onclick = () => zoom.close();
for (const image of document.querySelectorAll(".tiles img, .film img, .wide img"))
  image.onclick = () => { zoom.firstChild.src = image.src; zoom.showModal(); };
"""
