/**
 * What an adapter costs by itself, over effect's client for `fetch` and a canned transport that is subtracted.
 */
import * as OpenAiCompatible from "@llm-resilience/providers/OpenAiCompatible"
import * as Effect from "effect/Effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import { canned } from "./Canned.ts"
import { chunks } from "./Cost.ts"
import type { Figure } from "./Measure.ts"
import { request } from "./Upstreams.ts"

export const figures = Effect.gen(function* () {
  const provider = yield* Effect.provide(
    OpenAiCompatible.make({ model: "gpt-5", apiKey: Redacted.make("sk-nobody"), baseUrl }),
    Layer.provide(FetchHttpClient.layer, Layer.succeed(FetchHttpClient.Fetch, canned))
  )
  const whole = () => provider.generate(request)

  return [
    {
      name: "adapter.cpu",
      about: "a whole answer from a provider of OpenAI's protocol, minus the transport",
      goal: 40,
      of: whole,
      minus: () => Effect.promise(async () => (await post(false)).text())
    },
    {
      name: "adapter.chunk.cpu",
      about: `a chunk of a streamed answer of ${chunks}, minus the transport`,
      goal: 5,
      of: () => Stream.runDrain(provider.stream(request)),
      minus: () => Effect.promise(async () => drain(await post(true))),
      per: chunks
    },
    {
      name: "adapter.span.cpu",
      about: "what a span around a whole answer adds, with that of its HTTP request",
      of: () => Effect.withSpan(provider.generate(request), "request"),
      minus: whole
    },
    {
      name: "retained.adapter.bytes",
      about: "heap that stays behind for each whole answer",
      goal: 0,
      retainedBy: whole,
      calls: 5_000
    }
  ] satisfies ReadonlyArray<Figure>
})

const baseUrl = "http://127.0.0.1:9/v1"

const post = (stream: boolean) =>
  canned(`${baseUrl}/chat/completions`, { method: "POST", body: new TextEncoder().encode(JSON.stringify({ stream })) })

const drain = async ({ body }: Response): Promise<void> => {
  const reader = body?.getReader()
  // oxlint-disable-next-line no-await-in-loop -- one chunk after another is how a stream is read
  while ((await reader?.read())?.done === false);
}
