/**
 * An application that is watched: its metrics are there for Prometheus, every decision is a line of its log, and it can say how things stand.
 *
 *   npm run example -- docs/examples/monitoring.ts                  a drill: the primary goes away for some questions
 *   npm run example -- docs/examples/monitoring.ts --serve 9464     goes on asking until it is stopped
 *
 * While it serves: GET /metrics is for Prometheus, GET /status for a status page; POST /drill/start and /drill/end take the primary out and back.
 */
import { createServer } from "node:http"
import { parseArgs } from "node:util"
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { CircuitBreaker, LlmResilience, Situation } from "@llm-resilience/core"
import { Prometheus } from "@llm-resilience/opentelemetry"
import { OpenAiCompatible } from "@llm-resilience/providers"
import { Upstream } from "@llm-resilience/testing"
import { Console, Context, Effect, Layer, Logger, Schedule } from "effect"
import { FetchHttpClient, HttpRouter, HttpServerResponse } from "effect/http"

/** The two providers: servers on loopback, so that no account is needed. */
class Servers extends Context.Service<
  Servers,
  { readonly primary: Upstream.Upstream; readonly backup: Upstream.Upstream }
>()("monitoring/Servers") {
  static readonly layer = Layer.effect(
    Servers,
    Effect.all({
      primary: Upstream.make({ answer: "Hello from the primary.", tokenEvery: "1 millis" }),
      backup: Upstream.make({ answer: "Hello from the backup.", tokenEvery: "5 millis" })
    })
  )
}

const chain = Layer.unwrap(
  Effect.map(Servers, ({ backup, primary }) => {
    const step = (
      id: string,
      { baseUrl }: Upstream.Upstream,
      price: { inputPerMillion: number; outputPerMillion: number }
    ) => ({
      provider: OpenAiCompatible.layer({ id, model: `${id}-model`, baseUrl, capabilities: { price } })
    })
    return LlmResilience.layer({
      deadline: "10 seconds",
      policy: LlmResilience.standard({
        retry: "off",
        circuitBreaker: { trip: CircuitBreaker.consecutive(3), openFor: "1 second" }
      }),
      steps: [
        step("primary", primary, { inputPerMillion: 15, outputPerMillion: 75 }),
        step("backup", backup, { inputPerMillion: 2.5, outputPerMillion: 10 })
      ]
    })
  })
).pipe(Layer.provide(FetchHttpClient.layer))

const ask = Effect.gen(function* () {
  const answer = yield* LlmResilience.generateOrNotice({ prompt: "Say hello." })
  return answer._tag === "Answer" ? answer.response.served.provider : answer.notice.message
})

const say = (what: string) => Effect.flatMap(Situation.report, ({ text }) => Console.log(`${what}: ${text}`))

const drill = Effect.gen(function* () {
  const { primary } = yield* Servers
  yield* Effect.repeat(ask, { times: 9 })
  yield* say("before")
  yield* primary.down
  yield* Effect.repeat(ask, { times: 9 })
  yield* say("in the drill")
  yield* primary.up
  yield* Effect.sleep("1100 millis")
  yield* Effect.repeat(ask, { times: 9 })
  yield* say("after")
  const metrics = yield* Prometheus.format
  const wanted = /^llm_resilience_(answers_total|fallbacks_total|cost_usd_total|circuit_transitions_total).* (?!0$)/
  yield* Console.log(
    `\n${metrics
      .split("\n")
      .filter((line) => wanted.test(line))
      .join("\n")}`
  )
})

const routes = Layer.mergeAll(
  Prometheus.layer(),
  HttpRouter.add(
    "GET",
    "/status",
    Effect.flatMap(Situation.report, (report) => HttpServerResponse.json(report))
  ),
  HttpRouter.use((router) =>
    Effect.gen(function* () {
      const { primary } = yield* Servers
      yield* router.add(
        "POST",
        "/drill/start",
        Effect.as(primary.down, HttpServerResponse.text("The primary is gone.\n"))
      )
      yield* router.add("POST", "/drill/end", Effect.as(primary.up, HttpServerResponse.text("The primary is back.\n")))
    })
  )
)

const application = Situation.layer.pipe(Layer.provideMerge(chain), Layer.provideMerge(Servers.layer))

const { serve } = parseArgs({ options: { serve: { type: "string" } } }).values

const main =
  serve === undefined
    ? Effect.provide(
        drill,
        // Without a server the same layer counts and logs; its route has a router that nobody asks.
        Prometheus.layer().pipe(Layer.provide(HttpRouter.layer), Layer.provideMerge(application))
      )
    : Layer.launch(
        Layer.mergeAll(
          HttpRouter.serve(routes, { disableLogger: true }).pipe(
            Layer.provide(NodeHttpServer.layer(createServer, { host: "127.0.0.1", port: Number(serve) }))
          ),
          Layer.effectDiscard(Effect.forkScoped(Effect.repeat(ask, Schedule.spaced("50 millis"))))
        ).pipe(Layer.provide(application))
      )

NodeRuntime.runMain(
  Effect.provide(main, Logger.layer([serve === undefined ? Logger.consoleLogFmt : Logger.consoleJson]))
)
