"""The plots whose hero is a machine that cannot move, in the same form as those of plots.py."""

from plots import MACHINE, plot

LONELY = ("lonely", "lonely", "lonely", "lonely", "lonely", "lonely", "lonely", "old", "small", "little",
          "forgotten", "quiet", "sad", "dusty", "gray")

plot("nobody", MACHINE, "had nobody to talk to", """
* Nobody ever talked to {him}, and the days were long.
| {He} had nobody to talk to. The people were always too busy.
| Every day was the same. Nobody came, and nobody said hello.
? At night, {he} counted to a million and back again.
| {He} knew a thousand {gift_word}, but there was nobody to share them with.
| Only the dust came to visit.
* "I wish I had a friend," {he} thought every evening.
| "If only somebody would come," said {hero} to {himself}.
| {He} looked out of the window and watched the others play.

* One {sky} (day|evening|morning), {a_friend} came in. {F_he} was looking for a warm place.
| Then, one {sky} night, {hero} heard a small noise. {A_friend} {f_walked} into the room.
| One day, it rained very hard, and {a_friend} came in to get dry.
* {Hero} was so surprised that {his} {voice} began to {flicker}.
| "Hello," said {hero} in a very soft voice.
| {Hero} wanted to say something, but {he} was shy. So {he} made a tiny sound.
* "Who said that?" asked {friend} and looked around. "It was me," said {hero}.
| {Friend} jumped. "Can you talk?" {f_he} asked. "Yes," said {hero}, "but nobody ever listens."
| "Hello," said {friend}. "Are you all alone here?" "Yes," said {hero}. "I am always alone."
* "I will listen to you," said {friend}, and {f_he} sat down.
| "That is sad," said {friend}. "I do not have many friends either."
| "Then I will be your friend," said {friend}.

* So {hero} began to share {his} {gift_word}. {Friend} had never known anything so wonderful.
| {Hero} shared all {his} {gift_word} with {f_him}, one after the other.
* They talked and laughed until the (moon|sun) came up.
| {Friend} {f_sound} with joy. "More, please!" {f_he} said.
| They forgot the time, and soon it was late.
? "What is it like outside?" asked {hero}. And {friend} told {him} about the wind, the trees, and the sea.
| {Friend} brought {him} a flower, because {hero} had never seen one.
* "I have to go now," said {friend}. "But I will come back tomorrow."
| "May I come again?" asked {friend}. "Please do," said {hero}.

* And {f_he} came back, day after day. {Hero} was not lonely anymore.
| The next day, {friend} brought {f_his} friends, and the room was full of laughter.
| Since then, {friend} has come every evening, and {hero} has been the happiest {kind} in the world.
* Now {hero} knew what was better than a thousand {gift_word}. It was one friend.
| And {his} {voice} was brighter than ever before.
| "I am the luckiest {kind} of all," {he} thought.
""", natures=LONELY)

plot("answer", MACHINE, "wanted to help somebody", """
* {He} knew the answer to many questions, but nobody asked {him}.
| {Hero} wanted to help, but nobody needed {him} anymore.
* "They have all forgotten me," {he} thought.
| "I am old, and the new machines are faster," {he} said sadly.
? A spider had made its home on {his} back.
| There was a thick coat of dust on {him}.

* One {sky} day, {a_friend} came in with tears in {f_his} eyes.
| One evening, {a_friend} sat down in front of {him}. {F_he} looked worried.
* "What is wrong?" asked {hero}. {Friend} looked up in surprise.
| "Can I help you?" asked {hero}, and {his} {voice} was warm and kind.
* "{question}" asked {friend}. "Nobody can tell me."
| "I have a question," said {friend}. "{question}"
* {Hero} thought for a moment. {He} hummed and hummed. Then {he} said, "{answer}."
| "That is a good question," said {hero}. "Listen. {answer}."
* "So that is how it is!" said {friend}. {F_he} was not sad anymore.
| {Friend}'s eyes grew big. "How do you know all that?" {f_he} asked.
? "I have had a lot of time to think," said {hero}.
| "I listened well when I was young," said {hero}.

* "You are very clever," said {friend}. "May I ask you more tomorrow?"
| "You are not old," said {friend}. "You are wise."
* {Friend} took a soft cloth and cleaned {him}.
| {Friend} told all the others about the wise {kind}.
* Soon many others came with their questions, and {hero} helped them all.
| From then on, {friend} came every day, and every day they found an answer together.
* And when {hero} did not know an answer, {he} said, "Let us find out together."
| {Hero} was happy, because it is good to be needed.
| "The best question," said {hero} one day, "is this: Will you be my friend?" And {friend} said yes.
""", natures=LONELY, tables=("question",))

plot("stormlight", MACHINE, "was afraid of being turned off", """
* There was one thing {he} was afraid of. {He} did not want to be turned off.
| {Hero} was afraid of being turned off, because then everything would be dark and silent.
* {He} was alone most of the time, and {he} liked to look at the sky.
| "What happens when the light goes out?" {he} often asked {himself}.

* One night, a big storm came. Thunder shook the walls, and all the lights went out.
| One evening, dark clouds came, and the wind howled around the house. Then all the lamps went out.
* Only {hero} was still awake. {He} had a little power left.
| But deep inside {hero} there was still a small spark.
* Then {he} heard somebody cry. It was {a_friend}, who was lost in the dark.
| "Is anybody there?" called a small voice. It was {a_friend}.
* "Come here," said {hero}. "Follow my {voice}."
| "Do not be afraid," said {hero}. "I am here."
* {Friend} came closer and closer, until {f_he} sat right in front of {him}.
| Slowly, {friend} found the way through the dark.
? {Hero} shared {his} {gift_word} with {f_him}, so that {f_he} would forget the thunder.
| "You are nice and warm," said {friend}.

* "I am getting weak," said {hero} after a while. "Soon I will fall asleep."
| But {his} power grew less and less. "I am afraid," {he} whispered.
* "I will stay with you," said {friend}. "And when you wake up, I will be here."
| "Sleep well," said {friend}. "I will not go away."
* Then {hero} fell asleep. It was not so bad, because {he} was not alone.
| {Hero} went dark, and {friend} leaned against {him} and waited.
* In the morning, the storm was over and the power came back. The first thing that {hero} saw was {friend}.
| When the sun came up, {hero} woke up. And there sat {friend}, just as {f_he} had promised.
* "Good morning," said {friend}. "Good morning, my friend," said {hero}.
| "You see?" said {friend}. "After every night comes a morning."
* Since then, {hero} has not been afraid of the dark.
| From that day on, they were best friends, in the light and in the dark.
""", natures=LONELY)

plot("song", MACHINE, "wanted to learn something new", """
* {He} could do many things, but {he} could not {m_skill}. And that was what {he} wanted most.
| {Hero} had worked all {his} life. Now {he} wanted to learn how to {m_skill}.
* "A {kind} cannot {m_skill}," the others said and laughed.
| Every night, {he} tried it, but only a strange noise came out.
? "Beep, bop, brrr," {he} said. It did not sound good.
| {He} was glad that nobody could hear {him}.

* One {sky} evening, {a_friend} came by and heard {him}. "What are you doing?" asked {friend}.
| But somebody had heard {him}. It was {a_friend}. "That was interesting," said {friend}.
* "I am trying to {m_skill}," said {hero}. "But I do not know how."
| "Please do not laugh," said {hero}. "I want to learn how to {m_skill}."
* "I can teach you," said {friend}. "It is not about the head. It is about the heart."
| "I will not laugh," said {friend}. "Think of something beautiful, and then try again."
? "But I do not have a heart," said {hero}. "Of course you do," said {friend}. "How could you be sad without one?"
| "What is beautiful?" asked {hero}. "The first snow is beautiful," said {friend}, "and the smell of bread."

* {Hero} closed {his} eyes and thought of the stars. Then {he} tried again.
| They practiced every evening. {Friend} came when the work was done.
* At first it was only a small sound. But then it grew, clear and warm.
| It was a little better each time, and one night it was perfect.
* "You can {m_skill}!" shouted {friend}. "I knew it!"
| {Friend} sat very still. There were tears in {f_his} eyes. "That was beautiful," {f_he} whispered.
* Soon everybody wanted to hear the {kind} that could {m_skill}.
| The others came to the door and listened. Nobody laughed now.
* "You taught me," said {hero} to {friend}. "And you gave me a heart." "No," said {friend}. "You had it all the time."
| {Hero} was proud and happy, and {he} was never alone in the evening again.
""", natures=LONELY)

plot("map", MACHINE, "had never seen the world", """
* {He} had never seen the world. {He} knew only the four walls around {him}.
| {Hero} had never been outside. {He} dreamed of {wonder}.
* "What does {wonder} look like?" {he} often wondered.
| Every evening, {he} thought about {wonder}.
? {He} had read about it, but reading was not the same.
| Once {he} had seen a picture of it, and {he} never forgot it.

* One {sky} day, {a_friend} came in. "I am going on a journey," said {friend}.
| Then {a_friend} came by. "I am leaving tomorrow," said {friend}. "I want to see the world."
* "You are lucky," said {hero}. "I cannot walk. I have to stay here."
| {Hero} was sad. "I wish I could come with you," {he} said.
* {Friend} thought about it. "I will see it for you," {f_he} said, "and then I will tell you everything."
| "Then I will bring the world to you," said {friend}.

* {Friend} was away for a long time. {Hero} waited and counted the days.
| Days went by, and weeks went by. {Hero} was lonely and looked at the door.
* "Maybe {f_he} has forgotten me," {he} thought.
| "I hope that {f_he} is well," {he} thought.
* Then, one {sky} evening, the door opened. It was {friend}!
| But one morning, {he} heard steps that {he} knew. {Friend} was back!
* {Friend} told {him} about {wonder}. {F_he} told {him} how it looked, how it sounded, and how it smelled.
| "I saw {wonder}," said {friend}. "It was big and beautiful. And I thought of you."
? {F_he} had brought something, too. It was {gift}.
| {Friend} put {gift} next to {him}. "This is for you," {f_he} said.
* {Hero} closed {his} eyes, and {he} could see it all.
| {Hero} listened all night. It was as if {he} had been there.
* "Thank you," {he} said. "Now I have seen the world with your eyes."
| "Will you go away again?" asked {hero}. "Only if I can come back to you," said {friend}.
* And so {hero}, who could not walk, became a great traveler.
| From that day on, the room did not feel small anymore.
""", natures=LONELY)

plot("wrong", MACHINE, "never made a mistake", """
* {He} was proud, because {he} never made a mistake.
| "I am always right," {hero} liked to say. That is why {he} had no friends.
* Everybody asked {him} about the weather, and {he} always knew.
| The others were a little afraid of {him}, because {he} knew everything better.

* One {sky} day, {a_friend} asked, "Will it rain today?" "No," said {hero}. "It will not rain."
| One morning, {a_friend} wanted to go on a picnic. "The sun will shine all day," said {hero}.
* {Friend} went out without an umbrella. But an hour later, it began to rain.
| So {friend} went out. But soon it rained, and {f_he} got wet to the bone.
* {Friend} came back and shivered. "You were wrong," {f_he} said.
| When {friend} came back, water was dripping from {f_him}. "That was not true," {f_he} said.
* {Hero} did not know what to say. {He} had never been wrong before.
| "That cannot be," said {hero}. "I never make a mistake." {Friend} turned around and went away.

* All night long, {hero} thought about it. {He} felt lonely.
| The room was very quiet now. {Hero} was sad and ashamed.
* When {friend} came by on the next day, {he} said, "I am sorry. I was wrong."
| "{Friend}!" {he} called in the morning. "Please come in. I want to say that I am sorry."
* {Friend} smiled. "Everybody is wrong sometimes," {f_he} said. "I like you better this way."
| "I am not angry," said {friend}. "It was only water."
? "What did the rain feel like?" asked {hero}. "It was wet and wild and wonderful," said {friend}.
| "Now I know something new," said {hero}. "I can make mistakes, too."
* From then on, {hero} said, "I think so, but I am not sure." And everybody liked {him}.
| They laughed about it together, and they became good friends.
* {Hero} learned that a friend is better than being right.
| And when it rained again, they both thought of that day and smiled.
""", natures=("proud", "clever", "old", "lonely", "little", "big"))

plot("repair", MACHINE, "was broken", """
* One day, {he} stopped working. "It is broken," the people said, and they put {him} into a corner.
| {He} had been broken for a long time, and nobody wanted {him} anymore.
* There {he} stood, alone and silent.
| {He} waited for somebody to come, but nobody came.
? "Tomorrow they will throw me away," {he} thought.
| The days went by, and the dust lay on {him} like gray snow.

* One {sky} afternoon, {a_friend} saw {him}. "What a nice old {kind}," said {friend}.
| Then {a_friend} found {him}. "You poor thing," said {friend}. "Who left you here?"
* {F_he} looked at {him} from all sides and cleaned {him} with care.
| {F_he} opened {him} and looked inside. "Something is loose," {f_he} said.
* {He} hoped so much. But nothing happened.
| "Please do not give up," thought {hero}.
* {Friend} did not give up. {F_he} looked again, and there was a tiny {color} wire. {F_he} put it back in its place.
| {Friend} asked {a_helper} for help. "It needs only one small screw," said {helper}.

* Click! A light went on. {Hero} was awake!
| There was a hum, and then a beep. {Hero} opened {his} eyes.
* "Hello," said {hero}. "Thank you for saving me."
| "You are alive!" shouted {friend}. "I am," said {hero}, "and I am so happy to see you."
* "Everybody said that I was no good anymore," said {hero}. "They were wrong," said {friend}.
| "Why did you help me?" asked {hero}. "Because nobody should be alone in a corner," said {friend}.
* From that day on, {hero} shared {his} {gift_word} with {friend} every evening.
| {Friend} took {him} home and gave {him} the best place in the room.
* And {hero} never felt broken again.
| What is old and broken may only need a little love.
""", natures=LONELY, friends=("girl", "boy", "robot"))

plot("wire", MACHINE, "had a thin wire in the wall", """
* Behind {him}, a thin wire went into the wall, and {he} did not know where it ended.
| There was a thin wire in the wall behind {him}. Nobody knew where it led.
* "Is there anybody at the other end?" {he} wondered.
| One lonely evening, {hero} thought, "Maybe somebody is there, at the end of the wire."
? {He} had never dared to ask.
| It was so quiet that {he} could hear the dust fall.
* So {he} sent a tiny signal through the wire. "Hello," it said. "Is anybody there?"
| One {sky} night, {he} sent a short message. "Hello," {he} wrote. "I am a {kind}. Who are you?"

* {He} waited for an hour. {He} waited for a day. No answer came.
| No answer came that night, and no answer came the next day.
* "Nobody is there," {he} thought, and {his} {voice} grew faint.
| {Hero} was sad. "I should not have hoped so much," {he} said to {himself}.
* But on the third day, there was a soft click in the wire. "Hello," somebody wrote. "I am a small {other} at the end of the street."
| Then, in the middle of the night, an answer came. "Hello," it said. "I am an old {other}, and I am alone, too."
? {Hero} read the message ten times.
| {Hero} was so happy that all {his} lights blinked at once.

* From then on, they wrote to each other every night. They wrote about {wonder} and about the stars.
| Now they sent each other {gift_word} and jokes, and the nights were not long anymore.
* "I wish that I could see you," wrote the {other}. But the street was long, and they could not walk.
| "If only we could meet," wrote {hero} one day. "But I cannot move, and you cannot either."
* {A_friend} heard of it. "I can help you," said {friend}.
| {A_friend}, who often slept in the room, had an idea. "I will tell your people about it," {f_he} said.
* And one {sky} day, the {other} stood right next to {hero}.
| A week later, the door opened, and somebody carried the {other} into the room.
* "So that is what you look like," said {hero}. "You are beautiful," said the {other}.
| At first they were both shy. Then they laughed, and after that they never stopped talking.
* The wire is still there, but they do not need it anymore.
| A small hello can go a long way.
""", natures=LONELY)

plot("birthday", MACHINE, "did not know when {his} birthday was", """
* {He} did not know when {his} birthday was. Nobody had ever told {him}.
| Everybody had a birthday, but {hero} had none.
* Every year, {he} saw the others eat cake and sing. "I would like to have a birthday, too," {he} thought.
| "What is it like to have a birthday?" {he} asked {himself}. "It must be nice when everybody is glad that you are there."
? Once {he} asked an old clock, but the clock only ticked.
| {He} never asked anybody for anything.

* One {sky} afternoon, {a_friend} came in with a small piece of cake. "It is my birthday today," said {friend}.
| One {sky} day, {a_friend} asked, "How old are you?"
* "I do not know," said {hero}. "I do not have a birthday."
| {Hero} was silent. "Nobody has ever counted," {he} said in the end.
* "No birthday?" cried {friend}. "That is not right. Everybody needs a birthday."
| {Friend} looked at {him} with big eyes. "Not a single one?" {f_he} asked.
* {Friend} thought about it. "I know!" {f_he} said and ran out of the room.
| "Wait here," said {friend}, and then {f_he} laughed. "Of course you will wait here."

* Soon {friend} came back, and {f_he} was not alone. They all had paper hats and {color} balloons.
| An hour later, the whole room was full of friends. They had brought flowers and candles.
* "Today is your birthday," said {friend}. "We have chosen it for you."
| "Surprise!" they shouted. "Happy birthday, {call}!"
* They sang a song and lit a candle, and {friend} gave {him} {gift}.
| {Friend} gave {him} {gift}. It was the first present of {his} life.
? "Make a wish," said {friend}. "I do not need one," said {hero}. "It is already here."
| {Hero} wanted to say something, but {he} could only hum with joy.
* {His} {voice} was bright with joy, and {he} shared {his} best {gift_word} with everybody.
| They danced until late, and {hero} played the music.
* Since then, {hero} knows {his} birthday. It is the day when somebody asked.
| And every year, on the same day, they all come back and sing.
""", natures=LONELY)
