"""The look of report.html: one column of sections that fits 400 pixels, light and dark, without a framework."""

STYLE = """
:root { --ink: #1d232b; --soft: #5d6875; --paper: #fafaf8; --card: #fff; --rule: #dfe2e6; --accent: #2f6fb2;
  --mark: #c4492f; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --soft: #98a3af; --paper: #15181c; --card: #1e2328; --rule: #333a42; --accent: #6fa8e0;
    --mark: #e88468; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.2; }
h2 { margin: 40px 0 4px; font-size: 1.25rem; }
h3 { margin: 20px 0 8px; font-size: 1rem; }
header p, section > p { margin: 4px 0 12px; color: var(--soft); overflow-wrap: anywhere; }
.notice { margin: 8px 0; padding: 8px 12px; border-left: 4px solid var(--soft); background: var(--card);
  overflow-wrap: anywhere; font-size: .9rem; }
.notice.error { border-color: var(--mark); font-weight: 600; }
.notice.warning { border-color: #c99a2e; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(155px, 1fr)); gap: 12px; margin-top: 20px; }
.card { display: flex; flex-direction: column; padding: 12px 14px; border: 1px solid var(--rule); border-radius: 8px;
  background: var(--card); }
.card span { color: var(--soft); font-size: .8rem; overflow-wrap: anywhere; }
.card strong { font-size: 1.6rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.card small { color: var(--soft); font-size: .75rem; line-height: 1.35; }
figure { margin: 0; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(240px, 46%), 1fr)); gap: 16px; }
.gallery figcaption { margin-top: 4px; color: var(--soft); font-size: .8rem; overflow-wrap: anywhere; }
.gallery figcaption span { margin-right: .7em; white-space: nowrap; }
.gallery figcaption b { color: var(--ink); font-variant-numeric: tabular-nums; }
.compare { --cut: 50%; position: relative; overflow: hidden; border-radius: 6px 6px 0 0; background: var(--rule); }
.compare img { position: absolute; inset: 0; width: 100%; height: 100%; display: block; image-rendering: pixelated; }
.compare .over { clip-path: inset(0 0 0 var(--cut)); }
.compare::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--cut); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 4px #000; pointer-events: none; }
.compare input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize; }
.compare i { position: absolute; bottom: 6px; padding: 0 5px; border-radius: 4px; background: #000a; color: #fff;
  font: .65rem/1.5 system-ui, sans-serif; pointer-events: none; }
.compare .left { left: 6px; }
.compare .right { right: 6px; }
.compare:focus-within { outline: 2px solid var(--accent); outline-offset: 2px; }
.difference { display: block; width: 100%; border-radius: 0 0 6px 6px; image-rendering: pixelated; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); gap: 16px; }
.chart { padding: 10px 12px; border: 1px solid var(--rule); border-radius: 8px; background: var(--card); }
.chart figcaption { font-weight: 600; font-size: .9rem; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .bar { fill: var(--accent); }
svg .axis { stroke: var(--rule); stroke-width: 1; }
svg .line { fill: none; stroke: var(--accent); stroke-width: 2; }
svg .guide { fill: none; stroke: var(--soft); stroke-width: 1; stroke-dasharray: 3 4; }
svg .mark { fill: none; stroke: var(--mark); stroke-width: 1.5; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
th, td { padding: 5px 8px; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
th { font-weight: 500; overflow-wrap: anywhere; }
td:nth-child(2) { white-space: nowrap; font-variant-numeric: tabular-nums; }
td:last-child { color: var(--soft); }
@media (max-width: 600px) {
  .figures tr { display: grid; grid-template-columns: 1fr auto; padding: 5px 0; border-bottom: 1px solid var(--rule); }
  .figures th, .figures td { padding: 0 4px; border: 0; }
  .figures td:last-child { grid-column: 1 / -1; font-size: .8rem; }
}
details { margin: 6px 0; }
summary { cursor: pointer; }
pre { overflow-x: auto; padding: 10px; border-radius: 6px; background: var(--card); font-size: .8rem; }
"""
