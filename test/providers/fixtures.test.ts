import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { adapters, deliveries, Fixture, replay, table } from "../support/fixtureRunner.ts"
import { complete, said } from "../support/streams.ts"

// The runner itself, over bodies that are written here.

const fixture = (rest: object): Fixture =>
  Schema.decodeUnknownSync(Fixture)({
    id: "mine",
    provider: "openai",
    api: "chat.completions",
    response: {
      status: 429,
      headers: { "content-type": "application/json", "content-length": "1", "retry-after": "7" },
      body: '{"error":{"message":"Slow down, Grüße","code":"rate_limit_exceeded"}}'
    },
    expect: { class: "rate_limit", retryable: true, failover: true, retryAfterMs: 7000 },
    ...rest
  })

describe("The fixture runner", () => {
  it.live("agrees with what is right, in every delivery", () =>
    Effect.gen(function* () {
      const bodyBase64 = complete("bedrock").toString("base64")
      const stream = fixture({
        provider: "bedrock",
        api: "converse-stream",
        response: { status: 200, headers: { "content-type": "application/vnd.amazon.eventstream" }, bodyBase64 },
        expect: {
          class: "success",
          text: said + said,
          finish: "tool_calls",
          usage: { input: 1, output: 2 },
          toolCalls: [{ name: "t", args: '{ "a": "ü" }' }]
        }
      })
      for (const delivery of deliveries) {
        for (const mine of [fixture({}), stream]) {
          const outcome = yield* replay(mine, delivery)

          assert.isTrue(outcome.agrees, delivery)
          assert.deepStrictEqual(outcome.differences, [], delivery)
        }
      }
    })
  )

  it.live("says what is not", () =>
    Effect.gen(function* () {
      const wrong = yield* replay(fixture({ expect: { class: "auth" } }), "whole")
      const other = yield* replay(fixture({ expect: { class: "auth", classAlternatives: ["rate_limit"] } }), "whole")
      const strange = yield* replay(fixture({ api: "telepathy" }), "whole")
      const late = yield* replay(
        fixture({ expect: { class: "rate_limit", retryAfterMs: 1, failover: false } }),
        "split"
      )

      assert.isFalse(wrong.agrees)
      assert.isTrue(other.agrees)
      assert.deepInclude(strange, { agrees: false, class: "none", detail: "No adapter speaks telepathy" })
      assert.deepStrictEqual(late.differences, [
        "retry after: expected 1, got 7000",
        "falls over: expected false, got true"
      ])
      assert.deepStrictEqual(
        table([wrong, other, late]).map((line) => line.trim().split(/\s{2,}/)),
        [
          ["provider", "class", "fixtures", "class agrees", "all agrees"],
          ["openai", "auth", "1", "1/2", "1/2"],
          ["openai", "rate_limit", "1", "1/1", "0/1"],
          ["all", "1", "2/3", "1/3"]
        ]
      )
    })
  )

  it("knows every protocol", () => {
    assert.strictEqual(Object.keys(adapters).length, 7)
  })
})
