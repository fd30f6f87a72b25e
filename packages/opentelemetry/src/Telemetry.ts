/**
 * Metrics, spans and the decision log of a chain in one layer. Where they go, the application has decided elsewhere, or {@link Prometheus},
 * {@link Otlp} and the module `Sdk` decide.
 *
 * @since 0.1.0
 */
import * as DecisionLog from "@llm-resilience/core/DecisionLog"
import type { LlmResilience } from "@llm-resilience/core/LlmResilience"
import * as Metrics from "@llm-resilience/core/Metrics"
import * as Traces from "@llm-resilience/core/Traces"
import * as Layer from "effect/Layer"

/**
 * Options of each part, or `"off"`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly metrics?: Metrics.Options | "off" | undefined
  readonly traces?: Traces.Options | "off" | undefined
  readonly log?: DecisionLog.Options | "off" | undefined
}

/**
 * Layer that counts, traces and logs what happens in `LlmResilience`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<never, never, LlmResilience> =>
  Layer.mergeAll(
    options?.metrics === "off" ? Layer.empty : Metrics.layer(options?.metrics),
    options?.traces === "off" ? Layer.empty : Traces.layer(options?.traces),
    options?.log === "off" ? Layer.empty : DecisionLog.layer(options?.log)
  )
