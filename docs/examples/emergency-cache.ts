/**
 * An outage of everybody, and the answers of an hour ago.
 *
 *   npm run example docs/examples/emergency-cache.ts
 *
 * No account is needed: the provider follows a script.
 */
import { EmergencyCache, LlmResilience, type LlmRequest } from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Console, Effect, Layer, Stream } from "effect"

const resilient = LlmResilience.layer({
  steps: [
    {
      provider: ScriptedProvider.layer({
        script: (index) =>
          index < 2
            ? ScriptedProvider.tokens("The capital of France is Paris.")
            : ScriptedProvider.fail("QuotaExhausted")
      })
    }
  ],
  around: EmergencyCache.policy()
}).pipe(Layer.provideMerge(EmergencyCache.layerMemory()))

const ask = (input: LlmRequest.Input) =>
  LlmResilience.generate(input).pipe(
    Effect.flatMap(({ served, text }) =>
      Console.log(`  ${served.from}: ${text}${served.notice === undefined ? "" : `\n  (${served.notice.message})`}`)
    ),
    Effect.catch((error) => Console.log(`  ${error._tag}: ${error.message}`)),
    // What is stored in the background has time to be stored.
    Effect.andThen(Effect.sleep("20 millis"))
  )

const question = { prompt: "What is the capital of France?", scope: "acme" }

const program = Effect.gen(function* () {
  yield* Console.log("The provider answers, for two tenants:")
  yield* ask(question)
  yield* ask({ ...question, scope: "umbrella" })

  yield* Console.log("\nIt is down. The same question is answered from the cache:")
  yield* ask(question)

  yield* Console.log("\nAlso as a stream:")
  yield* LlmResilience.stream(question).pipe(
    Stream.runForEach((part) => (part.type === "text-delta" ? Console.log(`  ${part.delta}`) : Effect.void)),
    Effect.ignore
  )

  yield* Console.log("\nAnother question, tenant or person has no stored answer:")
  yield* ask({ ...question, prompt: "What is the capital of Spain?" })
  yield* ask({ ...question, scope: "initech" })
  yield* ask({ ...question, subject: "ann" })

  yield* Console.log("\nA tenant leaves, and its answers with it:")
  const cache = yield* EmergencyCache.EmergencyCache
  yield* cache.remove({ scope: "acme" })
  yield* ask(question)
  yield* ask({ ...question, scope: "umbrella" })

  const { entries, hits, misses } = yield* cache.statistics
  yield* Console.log(`\n${entries} answer is stored; ${hits} were served, ${misses} were not there.`)
})

await Effect.runPromise(Effect.provide(program, resilient))
