"""The models, deployments and collections that the simulator serves."""

from replicate_mcp.simulator.input_schemas import Input
from replicate_mcp.simulator.models import Deployment, Model

_WIDE_RATIOS = ("1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21")
_PROMPT = Input("prompt", "string", "Prompt for the image", required=True)
_SEED = Input("seed", "integer", "Random seed. Set for reproducible generation")
_MEGAPIXELS = Input("megapixels", "string", "Approximate size", default="1", enum=("1", "0.25"))
_QUALITY = Input(
    "output_quality", "integer", "Quality of the file, for jpg and webp", 80, minimum=0, maximum=100
)
_TOLERANCE = Input(
    "safety_tolerance", "integer", "1 is strictest, 6 most permissive", 2, minimum=1, maximum=6
)


def _ratio(*choices: str, default: str | None = None) -> Input:
    return Input(
        "aspect_ratio", "string", "Aspect ratio of the image", default or choices[0], enum=choices
    )


def _format(*choices: str, default: str | None = None) -> Input:
    return Input(
        "output_format", "string", "Format of the file", default or choices[0], enum=choices
    )


def _count(name: str, most: int) -> Input:
    return Input(name, "integer", "How many images to make", default=1, minimum=1, maximum=most)


def _images(name: str, most: int) -> Input:
    return Input(name, "uris", "Images to start from", default=[], max_items=most)


MODELS: tuple[Model, ...] = (
    Model(
        "black-forest-labs",
        "flux-schnell",
        "The fastest image generation model tailored for local development and personal use",
        "list",
        (
            _PROMPT,
            _ratio(*_WIDE_RATIOS),
            _count("num_outputs", 4),
            Input("num_inference_steps", "integer", "Steps", default=4, minimum=1, maximum=4),
            _SEED,
            _format("webp", "jpg", "png"),
            _QUALITY,
            Input("disable_safety_checker", "boolean", "Do not check images", default=False),
            Input("go_fast", "boolean", "Run faster at lower precision", default=True),
            _MEGAPIXELS,
        ),
        count_input="num_outputs",
        typical_seconds=0.8,
        run_count=600_000_000,
    ),
    Model(
        "black-forest-labs",
        "flux-dev",
        "A 12 billion parameter rectified flow transformer that makes images from text",
        "list",
        (
            _PROMPT,
            _ratio(*_WIDE_RATIOS),
            Input("image", "uri", "Image to start from"),
            Input(
                "prompt_strength",
                "number",
                "How much of the image to replace",
                default=0.8,
                minimum=0,
                maximum=1,
            ),
            _count("num_outputs", 4),
            Input("num_inference_steps", "integer", "Steps", default=28, minimum=1, maximum=50),
            Input("guidance", "number", "Guidance", default=3, minimum=0, maximum=10),
            _SEED,
            _format("webp", "jpg", "png"),
            _QUALITY,
            Input("go_fast", "boolean", "Run faster at lower precision", default=True),
            _MEGAPIXELS,
        ),
        count_input="num_outputs",
        typical_seconds=3.2,
        run_count=40_000_000,
    ),
    Model(
        "black-forest-labs",
        "flux-kontext-max",
        "Edits images by text, with better typography",
        "single",
        (
            _PROMPT,
            Input("input_image", "uri", "Image to edit: jpeg, png, gif or webp"),
            _ratio("match_input_image", *_WIDE_RATIOS),
            _SEED,
            _format("jpg", "png", default="png"),
            _TOLERANCE,
        ),
        default_format="png",
        typical_seconds=7.0,
        run_count=12_000_000,
    ),
    Model(
        "black-forest-labs",
        "flux-1.1-pro",
        "Faster, better FLUX Pro",
        "single",
        (
            _PROMPT,
            Input("image_prompt", "uri", "Image to guide the composition"),
            _ratio("custom", *_WIDE_RATIOS, default="1:1"),
            Input("width", "integer", "Width, if custom", minimum=256, maximum=1440),
            Input("height", "integer", "Height, if custom", minimum=256, maximum=1440),
            _SEED,
            _format("webp", "jpg", "png"),
            _QUALITY,
            _TOLERANCE,
            Input("prompt_upsampling", "boolean", "Let the prompt be embellished", default=False),
        ),
        typical_seconds=8.7,
        run_count=67_000_000,
    ),
    Model(
        "qwen",
        "qwen-image",
        "An image generation foundation model that renders complex text well",
        "list",
        (
            _PROMPT,
            Input("negative_prompt", "string", "What not to show", default=" "),
            _ratio("1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", default="16:9"),
            Input("image", "uri", "Image to start from"),
            Input("strength", "number", "How much of it to replace", 0.9, minimum=0, maximum=1),
            Input("guidance", "number", "Guidance", default=3, minimum=0, maximum=10),
            Input("num_inference_steps", "integer", "Steps", default=30, minimum=1, maximum=50),
            _SEED,
            _format("webp", "jpg", "png"),
            _QUALITY,
        ),
        typical_seconds=4.0,
        run_count=2_000_000,
    ),
    Model(
        "google",
        "imagen-4",
        "Google's Imagen 4 flagship model",
        "single",
        (
            _PROMPT,
            _ratio("1:1", "9:16", "16:9", "3:4", "4:3"),
            Input(
                "safety_filter_level",
                "string",
                "How strict the filter is",
                default="block_only_high",
                enum=("block_low_and_above", "block_medium_and_above", "block_only_high"),
            ),
            _format("jpg", "png"),
        ),
        default_format="jpg",
        typical_seconds=9.0,
        run_count=8_000_000,
    ),
    Model(
        "google",
        "nano-banana",
        "Google's image editing model in Gemini 2.5",
        "single",
        (
            _PROMPT,
            _images("image_input", 10),
            _ratio("match_input_image", "1:1", "2:3", "3:2", "3:4", "4:3", "9:16", "16:9", "21:9"),
            _format("jpg", "png"),
        ),
        default_format="jpg",
        typical_seconds=8.0,
        run_count=90_000_000,
    ),
    Model(
        "bytedance",
        "seedream-4",
        "Unified image generation and precise editing at up to 4K",
        "list",
        (
            _PROMPT,
            _images("image_input", 10),
            Input("size", "string", "Size", default="2K", enum=("1K", "2K", "4K", "custom")),
            _ratio("match_input_image", "1:1", "4:3", "3:4", "16:9", "9:16", "3:2", "2:3", "21:9"),
            Input("width", "integer", "Width, if custom", 2048, minimum=1024, maximum=4096),
            Input("height", "integer", "Height, if custom", 2048, minimum=1024, maximum=4096),
            Input(
                "sequential_image_generation",
                "string",
                "Whether it may make several related images",
                default="disabled",
                enum=("disabled", "auto"),
            ),
            _count("max_images", 15),
            Input("enhance_prompt", "boolean", "Enhance the prompt", default=True),
        ),
        count_input="max_images",
        default_format="jpg",
        typical_seconds=14.0,
        run_count=20_000_000,
    ),
    Model(
        "recraft-ai",
        "recraft-v3",
        "Makes images with long texts in them, in a wide list of styles",
        "single",
        (
            _PROMPT,
            _ratio("Not set", *_WIDE_RATIOS),
            Input(
                "size",
                "string",
                "Width and height, where no aspect ratio is set",
                default="1024x1024",
                enum=("1024x1024", "1365x1024", "1024x1365", "1536x1024", "1024x1536"),
            ),
            Input(
                "style",
                "string",
                "Style of the image",
                default="any",
                enum=("any", "realistic_image", "digital_illustration"),
            ),
        ),
        typical_seconds=8.8,
        run_count=8_000_000,
    ),
    Model(
        "openai",
        "gpt-image-1.5",
        "OpenAI's image generation model with better instruction following",
        "list",
        (
            _PROMPT,
            _ratio("1:1", "3:2", "2:3"),
            _images("input_images", 10),
            _count("number_of_images", 10),
            Input(
                "quality",
                "string",
                "Quality of the image",
                default="auto",
                enum=("low", "medium", "high", "auto"),
            ),
            Input(
                "background",
                "string",
                "Background",
                default="auto",
                enum=("auto", "transparent", "opaque"),
            ),
            _format("png", "jpeg", "webp", default="webp"),
            Input("output_compression", "integer", "Compression", 90, minimum=0, maximum=100),
        ),
        count_input="number_of_images",
        typical_seconds=20.0,
        run_count=5_000_000,
    ),
    Model(
        "community",
        "sticker-maker",
        "Makes stickers with transparent backgrounds",
        "list",
        (
            _PROMPT,
            Input("negative_prompt", "string", "What not to show", default=""),
            Input("number_of_images", "integer", "How many", default=1, minimum=1, maximum=10),
            Input("width", "integer", "Width", default=1024, minimum=256, maximum=2048),
            Input("height", "integer", "Height", default=1024, minimum=256, maximum=2048),
            Input("steps", "integer", "Steps", default=17, minimum=1, maximum=50),
            _SEED,
            _format("webp", "jpg", "png"),
        ),
        count_input="number_of_images",
        typical_seconds=6.0,
        is_official=False,
        run_count=1_200_000,
    ),
    Model(
        "community",
        "layers",
        "Makes a background and a foreground that fit each other",
        "dict",
        (_PROMPT, _SEED),
        default_format="png",
        typical_seconds=5.0,
        is_official=False,
        run_count=4_000,
        layers=("background", "foreground"),
    ),
)
MODELS_BY_ID = {model.id: model for model in MODELS}
MODELS_BY_VERSION = {model.version: model for model in MODELS}

DEPLOYMENTS: tuple[Deployment, ...] = (
    Deployment("acme", "fast-flux", MODELS_BY_ID["black-forest-labs/flux-schnell"]),
)
DEPLOYMENTS_BY_ID = {deployment.id: deployment for deployment in DEPLOYMENTS}

TEXT_TO_IMAGE = tuple(model for model in MODELS if model.id != "community/layers")
"""The models of the collection `text-to-image`."""
