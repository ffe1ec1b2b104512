#!/usr/bin/env bash
# Take the picture of the quickstart's report again: make quickstart, then
#   docs/generate/screenshot.sh runs/quickstart/report/*/report.html docs/assets/report.png
# Needs chromium on the path.
set -euo pipefail
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --virtual-time-budget=5000 \
  --force-device-scale-factor=1 --window-size="1100,${HEIGHT:-1330}" --screenshot="$2" \
  "file://$(realpath "$1")"
