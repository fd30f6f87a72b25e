import { assert, describe, it } from "@effect/vitest"
import { LlmResilience, Provider } from "@llm-resilience/core"
import { type Answer, Upstream } from "@llm-resilience/testing"
import { Effect, Layer, Schema } from "effect"
import { Chat, Prompt, Tool, Toolkit } from "effect/ai"
import { FetchHttpClient } from "effect/http"
import { adapters, type Protocol, protocols } from "./support/adapters.ts"

// A tool loop that begins with one protocol and ends with the other, over real HTTP: the call, its result, an image and the history
// survive the switch, and the tool runs once.

const Weather = Toolkit.make(
  Tool.make("lookUp", {
    description: "Looks up how warm it is in a city",
    parameters: Schema.Struct({ city: Schema.String }),
    success: Schema.Struct({ degrees: Schema.Number })
  })
)

const image = new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10])

const layerOf = (protocol: Protocol, baseUrl: string) =>
  Layer.effect(Provider.Provider, adapters[protocol]({ id: protocol, model: "claude-3-opus", baseUrl }))

/** Asks for the tool first, with an id that only this server would make, and says what came out of it then. */
const thermometer =
  (id: string): Answer.Answer =>
  ({ body }) =>
    JSON.stringify(body).includes("21")
      ? `It is 21 degrees (says ${id}).`
      : {
          text: "Let me look.",
          reasoning: "The user wants to know the weather.",
          toolCalls: [{ id, name: "lookUp", params: { city: "Rome" } }]
        }

describe("Two turns of a server that numbers its calls anew in each", () => {
  for (const to of protocols.filter((protocol) => protocol !== "gemini")) {
    it.live(`reach ${to} with an id of its own for every call`, () =>
      Effect.gen(function* () {
        const upstream = yield* Upstream.make({ answer: "Warm." })
        const turn = (city: string): ReadonlyArray<Prompt.MessageEncoded> => [
          { role: "user", content: `How warm is it in ${city}?` },
          { role: "assistant", content: [{ type: "tool-call", id: "call_0", name: "lookUp", params: { city } }] },
          {
            role: "tool",
            content: [
              { type: "tool-result", id: "call_0", name: "lookUp", isFailure: false, result: `result of ${city}` }
            ]
          }
        ]
        yield* LlmResilience.generate({
          prompt: [...turn("Rome"), ...turn("Oslo")],
          tools: Object.values(Weather.tools)
        }).pipe(
          Effect.provide(
            LlmResilience.layer({ steps: [{ provider: layerOf(to, upstream.baseUrl) }] }).pipe(
              Layer.provide(FetchHttpClient.layer)
            )
          )
        )
        const [request] = yield* upstream.requests
        const body = JSON.stringify(request?.body)

        assert.strictEqual(body.split('"call_0"').length - 1, 2)
        assert.strictEqual(body.split('"call_0_2"').length - 1, 2)
        assert.isBelow(body.indexOf("result of Rome"), body.lastIndexOf('"call_0_2"'))
      })
    )
  }
})

for (const [from, to] of protocols.flatMap((from) => protocols.map((to) => [from, to] as const))) {
  if (from === to) continue
  describe(`A tool loop that begins at ${from} and ends at ${to}`, () => {
    it.live("keeps the call, its result, the image and the history, and runs the tool once", () =>
      Effect.gen(function* () {
        const ids = {
          anthropic: "toolu_01:with.signs/that only one accepts",
          openai: `call_${"x".repeat(60)}`,
          "openai-responses": `call_${"y".repeat(70)}`,
          bedrock: `tooluse_${"Z".repeat(80)}`,
          gemini: "none, because this protocol matches by name"
        }
        const first = yield* Upstream.make({ answer: thermometer(ids[from]) })
        const second = yield* Upstream.make({ answer: thermometer(ids[to]) })
        let runs = 0
        const handlers = Weather.toLayer({
          lookUp: ({ city }) =>
            Effect.sync(() => {
              runs++
              return { degrees: city === "Rome" ? 21 : 0 }
            })
        })
        const resilient = LlmResilience.languageModel.pipe(
          Layer.provide(
            LlmResilience.layer({
              policy: LlmResilience.standard({ retry: "off" }),
              steps: [{ provider: layerOf(from, first.baseUrl) }, { provider: layerOf(to, second.baseUrl) }]
            })
          ),
          Layer.provide(FetchHttpClient.layer)
        )

        const outcome = yield* Effect.gen(function* () {
          const chat = yield* Chat.fromPrompt([
            { role: "system", content: "Be brief." },
            {
              role: "user",
              content: [
                { type: "text", text: "How warm is it where this was taken?" },
                { type: "file", mediaType: "image/png", data: image }
              ]
            }
          ])
          const asked = yield* chat.generateText({ prompt: Prompt.empty, toolkit: Weather })
          yield* first.down
          const told = yield* chat.generateText({ prompt: Prompt.empty, toolkit: Weather })
          return {
            text: told.text,
            askedBy: LlmResilience.servedOf(asked)?.provider,
            toldBy: LlmResilience.servedOf(told)?.provider
          }
        }).pipe(Effect.provide([resilient, handlers]))

        assert.deepStrictEqual(outcome, {
          text: `It is 21 degrees (says ${ids[to]}).`,
          askedBy: from,
          toldBy: to
        })
        assert.strictEqual(runs, 1)
        const [request] = yield* second.requests
        const body = JSON.stringify(request?.body)
        assert.include(body, Buffer.from(image).toString("base64"))
        assert.include(body, "lookUp")
        // The reasoning was signed by, and meant for, the first provider only.
        assert.notInclude(body, "The user wants to know the weather.")
        if (to === "gemini") {
          assert.include(body, '{"functionCall":{"name":"lookUp","args":{"city":"Rome"}}}')
          assert.include(body, '{"functionResponse":{"name":"lookUp","response":{"output":')
          return
        }
        const id = /"(?:tool_use_id|tool_call_id|toolUseId|call_id)":"([^"]*)"/.exec(body)?.[1] ?? ""
        assert.match(id, /^[a-zA-Z0-9_-]{1,64}$/)
        assert.strictEqual(body.split(`"${id}"`).length - 1, 2, "the call and its result have the same id")
      })
    )
  })
}
