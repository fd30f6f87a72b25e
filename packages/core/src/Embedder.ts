/**
 * The model that turns a question into a vector, for {@link SimilarAnswers}.
 *
 * A threshold belongs to its model: at a cosine of 0.9 one model accepts no near miss where another accepts three quarters of them. So an
 * embedder brings its own, found with `SimilarAnswers.calibrate`. Texts longer than `maxTokens` are cut by most models without a word, and
 * then all long texts with the same beginning are alike; they are never embedded.
 *
 * An embedder that calls the same provider as the chain fails in the same outage; a local model does not.
 *
 * @since 0.1.0
 */
import * as EmbeddingModel from "effect/ai/EmbeddingModel"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"

/**
 * Service that embeds texts.
 *
 * **Details**
 *
 * - `id` names model and version: vectors of different ids are never compared. `dimensions` is the length of every vector.
 * - `maxTokens`: the longest text it reads as a whole. `threshold`: the cosine from which two questions may be the same.
 * - `embed` returns one vector for each text, in order. They need not have the length 1.
 *
 * @category services
 * @since 0.1.0
 */
export class Embedder extends Context.Service<
  Embedder,
  {
    readonly id: string
    readonly dimensions: number
    readonly maxTokens: number
    readonly threshold: number
    readonly embed: (texts: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<ArrayLike<number>>, EmbeddingFailed>
  }
>()("@llm-resilience/core/Embedder") {}

/**
 * Options of {@link fromEmbeddingModel}.
 *
 * **Details**
 *
 * `maxTokens` is 256 and `threshold` 0.92 by default: cautious, and no substitute for calibration.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly id: string
  readonly dimensions: number
  readonly maxTokens?: number | undefined
  readonly threshold?: number | undefined
}

/**
 * Makes an embedder of the `effect/ai` embedding model in the context.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromEmbeddingModel = (
  options: Options
): Effect.Effect<Embedder["Service"], never, EmbeddingModel.EmbeddingModel> => {
  const { dimensions, id, maxTokens = 256, threshold = 0.92 } = options
  if (!Number.isInteger(dimensions) || dimensions < 1) {
    throw new RangeError(`Embedder.fromEmbeddingModel: dimensions must be an integer >= 1, got ${dimensions}`)
  }
  if (!Number.isInteger(maxTokens) || maxTokens < 1) {
    throw new RangeError(`Embedder.fromEmbeddingModel: maxTokens must be an integer >= 1, got ${maxTokens}`)
  }
  if (!(threshold > 0 && threshold <= 1)) {
    throw new RangeError(`Embedder.fromEmbeddingModel: threshold must be above 0 and at most 1, got ${threshold}`)
  }
  return Effect.map(EmbeddingModel.EmbeddingModel, (model) => ({
    id,
    dimensions,
    maxTokens,
    threshold,
    embed: (texts) =>
      Effect.mapBoth(model.embedMany(texts), {
        onFailure: (cause) => new EmbeddingFailed({ embedder: id, cause }),
        onSuccess: ({ embeddings }) => embeddings.map(({ vector }) => vector)
      })
  }))
}

/**
 * Layer that provides the `effect/ai` embedding model in the context as an {@link Embedder}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerEmbeddingModel = (options: Options): Layer.Layer<Embedder, never, EmbeddingModel.EmbeddingModel> =>
  Layer.effect(Embedder, fromEmbeddingModel(options))

/**
 * Error raised when a text could not be embedded.
 *
 * @category errors
 * @since 0.1.0
 */
export class EmbeddingFailed extends Schema.TaggedError<EmbeddingFailed>(
  "@llm-resilience/core/Embedder/EmbeddingFailed"
)("EmbeddingFailed", { embedder: Schema.String, cause: Schema.Defect() }) {
  override get message(): string {
    return "The text could not be embedded"
  }
}
