/**
 * Five protocols in one chain: four of them fail in their own words, the fifth answers, and its answer has a price.
 *
 *   npm run example docs/examples/providers.ts
 *
 * No account is needed: the providers are loopback servers that speak each protocol as it is spoken.
 */
import { Attempt, Cost, LlmRequest, LlmResilience } from "@llm-resilience/core"
import { Anthropic, Bedrock, Gemini, OpenAiCompatible, OpenAiResponses } from "@llm-resilience/providers"
import { Fault, Upstream } from "@llm-resilience/testing"
import { Console, Effect, Redacted } from "effect"
import { FetchHttpClient } from "effect/http"

const apiKey = Redacted.make("none is needed here")

const program = Effect.gen(function* () {
  const upstream = (fault?: Fault.Fault) =>
    Effect.map(Upstream.make({ answer: "All is well.", fault }), ({ baseUrl }) => baseUrl)

  const claude = yield* Anthropic.make({
    model: "claude-opus-4-5",
    apiKey,
    baseUrl: yield* upstream(Fault.status(529))
  })
  const nova = yield* Bedrock.make({
    model: "amazon.nova-pro-v1:0",
    region: "us-east-1",
    apiKey,
    baseUrl: yield* upstream(Fault.status(429, { body: { message: "Too many tokens per day, please wait." } }))
  })
  const gemini = yield* Gemini.make({ model: "gemini-2.5-pro", apiKey, baseUrl: yield* upstream(Fault.errorFrame(0)) })
  const gpt = yield* OpenAiResponses.make({ model: "gpt-5", apiKey, baseUrl: yield* upstream(Fault.status(401)) })
  const mini = yield* OpenAiCompatible.make({ model: "gpt-5-mini", apiKey, baseUrl: yield* upstream() })

  const resilience = yield* LlmResilience.make({
    policy: LlmResilience.standard({ retry: "off" }),
    steps: [{ provider: claude }, { provider: nova }, { provider: gemini }, { provider: gpt }, { provider: mini }]
  })
  const { served, text, usage } = yield* resilience.generate(LlmRequest.make({ prompt: "How are you?" }))

  for (const attempt of served.attempts) yield* Console.log(`  ${Attempt.format(attempt)}`)
  yield* Console.log(`  ${served.provider} (${served.model}): ${text}`)
  const price = mini.capabilities.price
  const cost = price === undefined ? undefined : Cost.ofUsage(usage, price)
  yield* Console.log(`  ${usage.inputTokens.total} + ${usage.outputTokens.total} tokens: $${cost?.toFixed(7)}`)
})

await Effect.runPromise(Effect.scoped(Effect.provide(program, FetchHttpClient.layer)))
