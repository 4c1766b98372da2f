#!/usr/bin/env python
"""Generate images: a picture of some classes, many images for an evaluation, or an area of a photo made anew.

python scripts/sample.py --generator AR_256_B.ckpt --classes "golden retriever" 88 --guidance 4 --output outputs/classes
torchrun --nproc_per_node 8 scripts/sample.py --generator AR_256_B.ckpt --num-images 50000 --guidance 1.9 2.0 \\
  --precision bf16 --compile --output outputs/samples    # PNG files and samples.npz; run it again after a kill
python scripts/sample.py --generator masked.ckpt --edit photo.jpg --box 64 64 192 192 --classes 207 --output outputs/new
"""

from open_magvit2 import load_tokenizer
from open_magvit2.common.devices import processes
from open_magvit2.common.distributed import rank
from open_magvit2.common.errors import short_errors
from open_magvit2.generators import command_line, pictures
from open_magvit2.generators.pretrained import load_generator
from open_magvit2.generators.writing import Plan, write_samples


def main() -> None:
    args = command_line.parse(__doc__)
    with short_errors(), processes(args.device) as device:
        published = {"grid": args.grid, "head_width": args.head_width}
        generator = load_generator(args.generator, None, device, **published, allowed_modules=args.allow_modules)
        source = command_line.tokenizer_file(args, generator)
        tokenizer = load_tokenizer(*source, device, args.allow_modules)
        settings, classes = command_line.settings(args, generator), command_line.classes(args, generator)
        what = (command_line.prepared(args, generator), tokenizer, settings)
        made_by = command_line.made_by(args, generator, source)
        if args.num_images is not None:
            plan = Plan(args.num_images, tuple(classes), args.seed)
            done = write_samples(*what, plan, made_by, args.output, device, args.batch_size, args.num_workers)
            text = f"{args.output}: {done} images made now, {args.num_images} there"
        else:
            chosen = (classes, args.per_class, args.seed)
            if args.edit:
                area = args.mask or args.box
                how = (args.outside, args.keep_pixels, args.batch_size)
                rows = pictures.edited_rows(*what, *chosen, args.edit, area, *how)
            else:
                rows = pictures.class_rows(*what, *chosen, device, args.batch_size)
            made_by |= command_line.picture_facts(args, settings, classes)
            inputs = [path for path in (args.edit, args.mask) if path is not None]
            text = f"written: {pictures.write_rows(args.output, rows, made_by, inputs)}" if rank() == 0 else ""
        if rank() == 0:
            print(text)


if __name__ == "__main__":
    main()
