/**
 * Says what a scripted provider was asked, so that a test reads like the sentence it stands for: asked twice, the second time after two
 * seconds, going on from what was said.
 *
 * Nothing here needs a test framework. {@link story} is a list of sentences to compare; {@link expect} compares calls field by field and
 * dies with the whole story when they differ.
 *
 * **Example** (A short Retry-After is waited out)
 *
 * ```ts import.meta.vitest
 * import { LlmRequest, LlmResilience } from "@llm-resilience/core"
 * import { Asked, ScriptedProvider, VirtualTime } from "@llm-resilience/testing"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const primary = yield* ScriptedProvider.make({
 *     script: [ScriptedProvider.fail("RateLimited", { retryAfter: "2 seconds" }), ScriptedProvider.answer("Hello!")]
 *   })
 *   const { generate } = yield* LlmResilience.make({ steps: [{ provider: primary }] })
 *   yield* generate(LlmRequest.make({ prompt: "Hi" }))
 *   yield* Asked.expect(primary, [{ outcome: "failed" }, { after: "2 seconds", outcome: "answered" }])
 *   return yield* Asked.story(primary)
 * })
 *
 * VirtualTime.make().runSync(Effect.scoped(program))
 * // => ["asked, failed at once", "2 s later: asked, answered at once"]
 * ```
 *
 * @since 0.1.0
 */
import type { LlmRequest } from "@llm-resilience/core/LlmRequest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type { Call, ScriptedProvider } from "./ScriptedProvider.ts"

/**
 * What a call should have been. What is absent does not matter.
 *
 * **Details**
 *
 * - `after`: how long after the end of the call before (or, while that one was still running, its start), to the millisecond.
 * - `took`: how long it took.
 * - `says`: a part of what the user says in its prompt. `prefill`: what it was told to go on from.
 *
 * @category models
 * @since 0.1.0
 */
export interface Expected {
  readonly method?: Call["method"] | undefined
  readonly outcome?: Call["outcome"] | undefined
  readonly after?: Duration.Input | undefined
  readonly took?: Duration.Input | undefined
  readonly says?: string | undefined
  readonly prefill?: string | undefined
}

/**
 * Dies unless the provider was asked exactly like this, call by call. An empty list says that it was not asked at all.
 *
 * @category assertions
 * @since 0.1.0
 */
export const expect = (provider: ScriptedProvider, expected: ReadonlyArray<Expected>): Effect.Effect<void> =>
  Effect.flatMap(provider.calls, (calls) => {
    const differences = calls.flatMap((call, index) => {
      const wanted = expected[index]
      return wanted === undefined ? [] : differencesOf(index, seen(call, calls[index - 1]), wanted)
    })
    if (calls.length !== expected.length) {
      differences.unshift(`${times(expected.length)} expected, ${times(calls.length)} made`)
    }
    return differences.length === 0
      ? Effect.void
      : Effect.die(
          new Error(
            [`${provider.id} was not asked as expected`, ...differences, "the story:", ...tell(calls)].join("\n  ")
          )
        )
  })

/**
 * Returns what the provider was asked, one sentence for each call.
 *
 * @category accessors
 * @since 0.1.0
 */
export const story = (provider: ScriptedProvider): Effect.Effect<ReadonlyArray<string>> =>
  Effect.map(provider.calls, tell)

interface Seen {
  readonly method: Call["method"]
  readonly outcome: Call["outcome"]
  readonly after: number
  readonly took: number | undefined
  readonly says: string
  readonly prefill: string | undefined
}

const seen = (call: Call, before: Call | undefined): Seen => {
  const ended = before?.endedAt !== undefined && before.endedAt <= call.at ? before.endedAt : before?.at
  return {
    method: call.method,
    outcome: call.outcome,
    after: ended === undefined ? 0 : call.at - ended,
    took: call.endedAt === undefined ? undefined : call.endedAt - call.at,
    says: textOf(call.request, "user") ?? "",
    prefill: call.request.prompt.content.at(-1)?.role === "assistant" ? textOf(call.request, "assistant") : undefined
  }
}

const textOf = ({ prompt }: LlmRequest, role: "user" | "assistant"): string | undefined => {
  const message = prompt.content.findLast((message) => message.role === role)
  if (message === undefined) return undefined
  if (typeof message.content === "string") return message.content
  return message.content.flatMap((part) => (part.type === "text" ? [part.text] : [])).join("\n")
}

const differencesOf = (index: number, seen: Seen, wanted: Expected): Array<string> => {
  const call = `call ${index + 1}`
  const differ = (name: string, found: string | number | undefined, expected: string | number | undefined) =>
    expected === undefined || found === expected
      ? []
      : [`${call}: ${name} should be ${String(expected)}, and is ${String(found)}`]
  const millis = (duration: Duration.Input | undefined) =>
    duration === undefined ? undefined : Duration.toMillis(duration)
  return [
    ...differ("method", seen.method, wanted.method),
    ...differ("outcome", seen.outcome, wanted.outcome),
    ...differ("after (ms)", Math.round(seen.after), millis(wanted.after)),
    ...differ("took (ms)", seen.took === undefined ? undefined : Math.round(seen.took), millis(wanted.took)),
    ...differ("prefill", seen.prefill, wanted.prefill),
    ...(wanted.says === undefined || seen.says.includes(wanted.says)
      ? []
      : [`${call}: the user should say "${wanted.says}", and says "${seen.says}"`])
  ]
}

const tell = (calls: ReadonlyArray<Call>): ReadonlyArray<string> =>
  calls.map((call, index) => {
    const { after, method, outcome, prefill, took } = seen(call, calls[index - 1])
    const when = index === 0 ? "" : after === 0 ? "at once: " : `${spoken(after)} later: `
    const asked = method === "stream" ? "asked for a stream" : "asked"
    const from = prefill === undefined ? "" : ` to go on from "${prefill}"`
    const ended =
      took === undefined ? "running" : took === 0 ? `${outcome} at once` : `${outcome} after ${spoken(took)}`
    return `${when}${asked}${from}, ${ended}`
  })

const spoken = (millis: number): string =>
  millis < 1000 ? `${Math.round(millis)} ms` : `${Number((millis / 1000).toFixed(3))} s`

const times = (count: number): string => ["no call", "one call", "two calls"][count] ?? `${count} calls`
