#!/bin/sh
# The runs of the images in docs/dashboards.md: about 15 minutes on two cores, no data set and no download.
set -e
train() { moleflow train -m +experiment=quickstart transform.size=64 backbone.dim=48 progress=false trainer=cpu "$@"; }
flow() { train epochs=3 model.coupling_layers=2 model.lora_rank=8 batch_size=8 "$@"; }
bank() { train model=patchcore scoring=pooled seed=0,1 "$@"; }
bank model.size=300 callbacks.pictures.per_kind=1
bank model.size=50 callbacks=minimal
bank model.size=300 callbacks=minimal backbone=resnet18 backbone.pretrained=false backbone.dim=48
bank model.size=300 callbacks.pictures.per_kind=1 'dataset.categories=[fabric,gear]'
train model=gaussian scoring=pooled seed=0,1 callbacks=minimal
flow seed=0,1,2 callbacks=diagnostics '~callbacks.pictures'
flow seed=0,1,2 callbacks=minimal loss.tail_weight=0,0.3,1.0
flow seed=0,1,2 callbacks=minimal loss.tail_weight=0,0.7 model.dia_blocks=0
flow seed=0,1,2 callbacks=minimal optimizer.lr=3e-3
flow seed=0,1 callbacks=minimal continual=finetune
moleflow report runs -o report --target 0.45 --title 'Synthetic products'
python "$(dirname "$0")/report-images.py" report/index.html  # needs selenium, Chromium and its driver
