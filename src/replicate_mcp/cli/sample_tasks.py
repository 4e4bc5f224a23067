"""Sample tasks of the demo: realistic prompts with filenames."""

from collections.abc import Iterator
from itertools import count, islice

Task = dict[str, str]

_PROMPTS = (
    ("a red car", "red_car.jpg"),
    ("a blue house", "blue_house.png"),
    ("a lighthouse in a storm", "lighthouse.webp"),
    ("a fox asleep in the snow", "sleeping_fox.jpg"),
    ("a paper boat on a puddle", "paper_boat.png"),
    ("an astronaut tending tomatoes", "gardener.jpg"),
    ("a library inside a whale", "whale_library.webp"),
    ("a tram climbing a hill in Lisbon", "lisbon_tram.jpg"),
    ("a teapot shaped like a castle", "castle_teapot.png"),
    ("rice terraces at sunrise", "rice_terraces.jpg"),
    ("an owl reading a newspaper", "reading_owl.png"),
    ("a street market after rain", "street_market.jpg"),
    ("a robot learning to knit", "knitting_robot.png"),
    ("a glass greenhouse at night", "greenhouse.webp"),
    ("a map of an island that does not exist", "island_map.png"),
    ("a bicycle covered in ivy", "ivy_bicycle.jpg"),
    ("northern lights over a fishing village", "aurora.jpg"),
    ("a cat conducting an orchestra", "conductor_cat.png"),
    ("a bowl of ramen, seen from above", "ramen.jpg"),
    ("an old radio on a windowsill", "old_radio.webp"),
    ("a hot-air balloon made of quilts", "quilt_balloon.png"),
    ("a wooden bridge in the fog", "foggy_bridge.jpg"),
    ("a hummingbird in a drop of water", "hummingbird.jpg"),
    ("a moon base with a garden", "moon_base.png"),
)


def sample_tasks(number: int) -> list[Task]:
    """Return `number` tasks; after the last prompt they repeat as variations."""
    return list(islice(_endless(), number))


def _endless() -> Iterator[Task]:
    for round_number in count(1):
        for prompt, filename in _PROMPTS:
            if round_number == 1:
                yield {"prompt": prompt, "output_filename": filename}
            else:
                stem, _, extension = filename.rpartition(".")
                yield {
                    "prompt": f"{prompt}, variation {round_number}",
                    "output_filename": f"{stem}_v{round_number}.{extension}",
                }
