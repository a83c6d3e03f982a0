"""The frame of the report page; every value put in is escaped by whoever puts it."""

from string import Template

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { color-scheme: light; --ink: #1f2933; --soft: #616e7c; --line: #e4e7eb; --mark: #d9480f; }
body { margin: 0 auto; max-width: 1080px; padding: 32px 24px 64px; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 40px 0 12px; }
p { margin: 4px 0; color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 24px 0 12px; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 20px 7px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { border-bottom: 2px solid var(--ink); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
td i { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 9px; }
svg { max-width: 100%; height: auto; display: block; }
figure { margin: 20px 0 28px; padding: 0 0 24px; border-bottom: 1px solid var(--line);
  display: grid; grid-template-columns: 300px 1fr; gap: 20px; align-items: start; }
figcaption { grid-column: 1 / -1; color: var(--soft); font-size: 13px; }
figcaption strong { color: var(--ink); margin-right: 8px; }
.whole { position: relative; line-height: 0; width: fit-content; height: fit-content; }
.whole img { max-width: 300px; max-height: 300px; }
.whole b { position: absolute; box-sizing: border-box; outline: 2px solid var(--mark);
  box-shadow: 0 0 0 4px rgb(255 255 255 / 70%); }
.crops { display: grid; grid-template-columns: repeat(auto-fill, minmax(192px, 1fr)); gap: 16px; }
.crops div { min-width: 0; }
.crops img { width: 100%; image-rendering: pixelated; display: block; }
.crops span { display: block; margin-top: 5px; font-weight: 600; overflow-wrap: anywhere; }
.crops small { color: var(--soft); font-variant-numeric: tabular-nums; }
summary { cursor: pointer; margin-top: 32px; font-weight: 600; }
@media (max-width: 720px) { figure { grid-template-columns: 1fr; } }
</style>
</head>
<body>
<h1>$title</h1>
<p>$protocol</p>
<p>$made</p>
<div class="scroll">$table</div>
<h2>PSNR against time</h2>
<p>One run of each picture on $machine; the network alone, without reading, writing and transfers.</p>
$plot
<h2>Comparison</h2>
<p>The pictures of each set with the most to see. PSNR (dB) / SSIM are of the whole picture.</p>
$comparisons
$failed
<details>
<summary>Each picture: PSNR (dB) / SSIM</summary>
<div class="scroll">$pictures</div>
</details>
</body>
</html>
""")
