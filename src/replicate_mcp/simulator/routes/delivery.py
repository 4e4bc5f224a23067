"""Stand-in for replicate.delivery, which serves outputs without a token."""

from replicate_mcp.simulator.drawing import Picture
from replicate_mcp.simulator.editing import Recipe
from replicate_mcp.simulator.http_exchange import Answer, Exchange, Headers
from replicate_mcp.simulator.model_fixtures import MODELS_BY_ID
from replicate_mcp.simulator.problem_details import not_found
from replicate_mcp.simulator.route_context import CONTENT_TYPES, Simulation

_PAGE = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body></body></html>"
_COVER_WIDTH, _COVER_HEIGHT = 640, 400


async def get_output(sim: Simulation, exchange: Exchange) -> Answer:
    """GET /delivery/{prediction id}/out-{index}, with or without an extension."""
    prediction_id, number, extension = exchange.args
    prediction = sim.world.predictions.get(prediction_id)
    if prediction is None or not prediction.output_ready or not prediction.destiny.has_output:
        raise not_found()
    model, given = prediction.asked.model, prediction.asked.input
    removed = prediction.data_is_removed(
        sim.world.clock.now(), sim.world.settings.retention_seconds
    )
    known_extension = extension in (None, model.file_format(given))
    if removed or not known_extension or int(number) >= model.file_count(given):
        raise not_found()
    if sim.happens(sim.world.settings.page_for_file):
        return Answer(200, _PAGE, ((b"content-type", b"text/html; charset=utf-8"),))
    if sim.happens(sim.world.settings.empty_file):
        return Answer(200, b"", _headers(model.file_format(given)))
    return await _image(sim, sim.picture(prediction, int(number)), model.file_format(given))


async def get_cover(sim: Simulation, exchange: Exchange) -> Answer:
    """GET /delivery/covers/{owner}/{name}.webp."""
    model = MODELS_BY_ID.get("/".join(exchange.args))
    if model is None:
        raise not_found()
    picture = Picture(model.name, model.run_count, _COVER_WIDTH, _COVER_HEIGHT, "webp", model.owner)
    return await _image(sim, picture, picture.format)


async def _image(sim: Simulation, picture: Recipe, file_format: str) -> Answer:
    return Answer(200, await sim.draw(picture), _headers(file_format))


def _headers(file_format: str) -> Headers:
    return (
        (b"content-type", CONTENT_TYPES[file_format].encode()),
        (b"cache-control", b"public, max-age=3600"),
        (b"access-control-allow-origin", b"*"),
    )
