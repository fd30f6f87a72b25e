/**
 * Marks a step whose answers are less than the user may expect, so that nothing is degraded silently.
 *
 * Every answer of such a step carries `served.degraded` and the notice `Shortened`, whole and streamed.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as LlmResponse from "./LlmResponse.ts"
import * as Notice from "./Notice.ts"
import type * as Policy from "./Policy.ts"

/**
 * Creates the policy: a `smaller` model than usual, or one whose answers are `shorter`.
 *
 * **Example** (A small model as the last step)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Degradation, LlmRequest, LlmResponse, Provider } from "@llm-resilience/core"
 *
 * const small = Provider.make({
 *   id: "small",
 *   model: "tiny-1",
 *   generate: () => Effect.succeed({ content: LlmResponse.textContent("Hi.") })
 * })
 *
 * const program = Effect.scoped(
 *   Effect.gen(function*() {
 *     const step = yield* Degradation.policy("smaller")(small)
 *     return (yield* step.generate(LlmRequest.make({ prompt: "Hello" }))).served
 *   })
 * )
 * const served = await Effect.runPromise(program)
 *
 * served.degraded // => "smaller"
 * served.notice?._tag // => "Shortened"
 * ```
 *
 * @category policies
 * @since 0.1.0
 */
export const policy =
  (degraded: "smaller" | "shorter"): Policy.Policy =>
  (self) =>
    Effect.map(Notice.translator, (translate) => {
      const notice: Notice.Notice = { _tag: "Shortened", message: translate({ _tag: "Shortened" }) }
      const mark = (served: LlmResponse.Served): LlmResponse.Served => ({ ...served, degraded, notice })
      const own: LlmResponse.ServedPart = {
        type: "served",
        served: mark(LlmResponse.servedBy(self))
      }
      return {
        ...self,
        generate: (request) =>
          Effect.map(self.generate(request), (response) => LlmResponse.withServed(response, mark(response.served))),
        stream: (request) =>
          Stream.prepend(
            Stream.map(self.stream(request), (part): LlmResponse.LlmStreamPart =>
              part.type === "served" ? { type: "served", served: mark(part.served) } : part
            ),
            [own]
          )
      }
    })
