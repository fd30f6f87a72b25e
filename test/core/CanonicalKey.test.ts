import { assert, describe, it } from "@effect/vitest"
import { CanonicalKey } from "@llm-resilience/core"
import { Arbitrary, Schema } from "effect"

const same: ReadonlyArray<readonly [string, string]> = [
  ["WHERE IS THE DEAD SEA?", "Where is the Dead Sea"],
  ["What’s a  monad?", "what is a monad?"],
  ["How do I fold a shirt?", "How to fold a shirt"],
  ["How can I peel garlic?", "how do I peel garlic?"],
  ["Hi there! Could you please explain how tides work? Thank you so much!", "Explain how tides work."],
  ["I'd like to know how old the universe is", "How old the universe is"],
  ["Could you write me a haiku about snow?", "Write me a haiku about snow."],
  ["What does “osmosis” mean?", 'What is the meaning of "osmosis"?'],
  ["Give me twenty-one ideas", "give me 21 ideas"],
  ["Is 45,000 a lot?", "Is 45000 a lot?"],
  ["What is the colour of a zebra?", "What is the color of a zebra?"],
  ["How do I write a while-loop?", "How do I write a while loop?"],
  ["What is a symptom of gout?", "What is a symptom of gout"],
  ["ｗｈａｔ is a quark？", "What is a quark?"],
  ["Was ist  ein Quark", "was ist ein Quark"]
]

const different: ReadonlyArray<readonly [string, string]> = [
  ["What is mint?", "What is in mint?"],
  ["What is the office?", "What is office?"],
  ["How do I say please in Thai?", "How do I say in Thai?"],
  ["How do you say no, thank you?", "How do you say no?"],
  ["Can you fix a flat tyre?", "Fix a flat tyre."],
  ["How do I look?", "How to look?"],
  ["How much money do you make?", "How much money do I make?"],
  ["Where do US citizens vote?", "Where do us citizens vote?"],
  ["Which bird is a turkey?", "Which bird is a Turkey?"],
  ["What is -7 plus 2?", "What is 7 plus 2?"],
  ["What is 8 - 2?", "What is 8 2?"],
  ["What is 10²?", "What is 102?"],
  ["What is 2½ inches?", "What is 21/2 inches?"],
  ["Is 1,5 more than 1?", "Is 15 more than 1?"],
  ["How do I loop in C?", "How do I loop in C#?"],
  ["What does ls -a do?", "What does ls -A do?"],
  ['Spell "Knight"', 'Spell "night"'],
  ["Explain `a && b`", "Explain `a & b`"],
  ["Fix: x = Y", "Fix: x = y"],
  ["Translate\nMonday", "Translate\nmonday"],
  ["Translate to Dutch: Hello. Thanks!", "Translate to Dutch: Hello."],
  ["Recommend a film", "Recommend films"],
  ["Which is the best city?", "Which are the best cities?"],
  ["Is the shop closing?", "Is the shop closed?"],
  ["Du gehst?", "Du gehst."],
  ["Hello! in Korean", "Hi! in Korean"],
  ["Can cats swim?", "Cats can swim?"]
]

describe("CanonicalKey.of", () => {
  it.each(same)("is the same for %j and %j", (left, right) => {
    assert.strictEqual(CanonicalKey.of(left), CanonicalKey.of(right))
  })

  it.each(different)("differs for %j and %j", (left, right) => {
    assert.notStrictEqual(CanonicalKey.of(left), CanonicalKey.of(right))
  })

  it.prop("never fails, and is the same every time", { text: Arbitrary.schema(Schema.String) }, ({ text }) => {
    assert.strictEqual(CanonicalKey.of(text), CanonicalKey.of(text))
  })

  it("keeps apart what only its own notation could confuse", () => {
    assert.notStrictEqual(CanonicalKey.of('Explain "a" and "b" to me'), CanonicalKey.of('Explain "a" and b" to me'))
    assert.notStrictEqual(CanonicalKey.of('What is `a "1:b`?'), CanonicalKey.of("What is `a` `b`?"))
  })

  it("leaves a text alone that is longer than it reads", () => {
    const long = `What is ${"very ".repeat(5000)}long?`

    assert.notStrictEqual(CanonicalKey.of(long), CanonicalKey.of(long.toUpperCase()))
    assert.include(CanonicalKey.of(long), long)
  })

  it.each([
    ["quotes that never close", " 'a".repeat(6000)],
    ["dots", ".".repeat(16_000)],
    ["an address that ends in dots", `@${".".repeat(16_000)}`],
    ["commas between digits", "1,".repeat(8000)],
    ["letters of another script", "日本 ".repeat(5000)],
    ["greetings", "hello, please ".repeat(1100)]
  ])("reads %s in one pass", (_, text) => {
    assert.isString(CanonicalKey.of(text))
  })
})
